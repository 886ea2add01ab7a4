-- Nodes whose heartbeats are late.

local function call_stale(node)
  local key = P .. ':node:' .. node
  local beat = call('ZSCORE', P .. ':up', node)
  local was = call('HMGET', key, 'kind', 'avail', 'beat')
  call('ZREM', P .. ':up', node)
  if not was[1] then return end
  if was[2] ~= 'up' then return enrol(node) end
  call('ZADD', P .. ':stale', int(tonumber(beat or was[3]) or now - STALE), node)
  call('HSET', key, 'avail', 'stale')
  enrol(node)
  publish(now, 'node.stale', node, '', '{}')
end

-- Calls nodes stale whose heartbeats are late, the most silent first; `most` at the most. Returns how many.
local function expire_beats(most)
  if silent_since() > now - STALE then return 0 end
  local late = call('ZRANGEBYSCORE', P .. ':up', '-inf', now - STALE, 'LIMIT', 0, most)
  for _, node in ipairs(late) do call_stale(node) end
  return #late
end
