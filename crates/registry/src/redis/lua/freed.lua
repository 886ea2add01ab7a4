-- What follows when slots of a node came back. A node that is down was published as drained when it went down.
local function settle(node)
  local h, used = call('HMGET', P .. ':node:' .. node, 'elig', 'avail', unpack(PLACING)), call('HLEN', P .. ':held:' .. node)
  if h[3] then shelve(node, { unpack(h, 3) }, used) end
  if used == 0 and h[1] == 'draining' and h[2] ~= 'down' then publish(now, 'node.drained', node, '', '{}') end
  wake_line()
end

local function free(node, spawn)
  if let_go(node, spawn) then settle(node) end
end
