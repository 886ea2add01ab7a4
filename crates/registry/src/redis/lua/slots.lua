-- Slots and where nodes stand in the indexes.
--
-- held:<n> maps a spawn to two letters and its owner, if it has one. The first letter says why the slot is taken: R reserved
-- and not reported by the agent yet, X such a reservation given up, A reported by the agent. The second is g when a GPU slot
-- goes with it, else -.
--
-- owned:<o> has what the owner's quota counts: everything of its that holds a slot, but not what is lost with a node. A
-- node that does not come back must not keep its spawns' owners from starting others for as long as it is remembered.

local function own(owner, node, spawn)
  if owner ~= '' then call('HSET', P .. ':owned:' .. owner, spawn, node) end
end

local function disown(hold, spawn)
  if #hold > 2 then call('HDEL', P .. ':owned:' .. string.sub(hold, 3), spawn) end
end

-- Puts a node where its load says, or nowhere when it has no room.
-- h: its kind, csr, ssr, slots, gpus, gused, placeable; used: its taken slots.
local function shelve(node, h, used)
  local slots = tonumber(h[4])
  local room = h[7] == '1' and used < slots
  local load = used / math.max(slots, 1)
  if h[2] == '1' then
    local open = P .. ':open:' .. h[1] .. ':csr'
    if room then call('ZADD', open, load, node) else call('ZREM', open, node) end
  end
  if h[3] == '1' then
    local open = P .. ':open:' .. h[1] .. ':ssr'
    local gpus, gused = tonumber(h[5]), tonumber(h[6])
    if room and (gpus < 0 or gused < gpus) then
      if gpus > 0 then load = math.max(load, gused / gpus) end
      call('ZADD', open, load, node)
    else
      call('ZREM', open, node)
    end
  end
end

local function place(node)
  local h = call('HMGET', P .. ':node:' .. node, 'kind', 'csr', 'ssr', 'slots', 'gpus', 'gused', 'placeable')
  if h[1] then shelve(node, h, call('HLEN', P .. ':held:' .. node)) end
end

-- Follows a change of eligibility or availability.
local function enrol(node)
  local key = P .. ':node:' .. node
  local h = call('HMGET', key, 'kind', 'csr', 'ssr', 'elig', 'avail')
  local placeable = h[4] == 'eligible' and h[5] == 'up'
  call('HSET', key, 'placeable', placeable and '1' or '0')
  for i, renderer in ipairs({ 'csr', 'ssr' }) do
    if h[i + 1] == '1' then
      local members = P .. ':members:' .. h[1] .. ':' .. renderer
      call('SADD', P .. ':known:' .. h[1] .. ':' .. renderer, node)
      if placeable then call('SADD', members, node) else call('SREM', members, node) end
    end
  end
  place(node)
end

-- Takes a node out of every index, before its kind changes or it is forgotten.
local function strike(node)
  local kind = call('HGET', P .. ':node:' .. node, 'kind')
  if not kind then return end
  local left = 0
  for _, renderer in ipairs({ 'csr', 'ssr' }) do
    local tail = kind .. ':' .. renderer
    call('SREM', P .. ':known:' .. tail, node)
    call('SREM', P .. ':members:' .. tail, node)
    call('ZREM', P .. ':open:' .. tail, node)
    left = left + call('SCARD', P .. ':known:' .. tail)
  end
  if left == 0 then
    call('HDEL', P .. ':kinds', kind)
    call('SET', P .. ':kindver', int(next_seq()))
  end
end

-- Gives a slot back; settle must follow.
local function let_go(node, spawn)
  local held, key = P .. ':held:' .. node, P .. ':node:' .. node
  local hold = call('HGET', held, spawn)
  if not hold then return false end
  call('HDEL', held, spawn)
  if string.sub(hold, 2, 2) == 'g' then call('HINCRBY', key, 'gused', -1) end
  disown(hold, spawn)
  return true
end

-- What follows when slots of a node came back. A node that is down was reported as drained when it went.
local function settle(node)
  place(node)
  local is = call('HMGET', P .. ':node:' .. node, 'elig', 'avail')
  if is[1] == 'draining' and is[2] ~= 'down' and call('HLEN', P .. ':held:' .. node) == 0 then
    tell(now, 'node.drained', node, '', '{}')
  end
  nudge_line()
end

local function free(node, spawn)
  if let_go(node, spawn) then settle(node) end
end

local function call_stale(node)
  local beat = call('ZSCORE', P .. ':up', node)
  if not beat then return end
  call('ZREM', P .. ':up', node)
  call('ZADD', P .. ':stale', beat, node)
  call('HSET', P .. ':node:' .. node, 'avail', 'stale')
  enrol(node)
  tell(now, 'node.stale', node, '', '{}')
end

-- Calls nodes stale whose heartbeats are late, the latest first, so many at the most.
local function expire_beats(most)
  for _, node in ipairs(call('ZRANGEBYSCORE', P .. ':up', '-inf', now - STALE, 'LIMIT', 0, most)) do
    call_stale(node)
  end
end
