-- Slots and where nodes stand in the indexes.
--
-- held:<n> maps a spawn to two letters and its owner, if it has one. The first letter says why the slot is taken: R
-- reserved and not reported by the agent yet, X such a reservation given up, A reported by the agent. The second is g when
-- a GPU slot goes with it, else -. embedded/slots.rs draws how one becomes another.
--
-- owned:<o> has what the owner's quota counts: its reservations and spawns that hold a slot. Spawns that are lost with a
-- node do not count, or a node that never comes back would keep its owners from starting others for as long as the node is
-- remembered.

local function own(owner, node, spawn)
  if owner ~= '' then call('HSET', P .. ':owned:' .. owner, spawn, node) end
end

local function disown(hold, spawn)
  if #hold > 2 then call('HDEL', P .. ':owned:' .. string.sub(hold, 3), spawn) end
end

local RENDERERS = { 'csr', 'ssr' }

-- The fields of a node's record that decide where it stands in the indexes, in the order that the functions below expect.
local PLACING = { 'kind', 'csr', 'ssr', 'slots', 'gpus', 'gused', 'placeable', 'hcsr', 'hssr', 'advertise', 'supply' }

local function placing(node) return call('HMGET', P .. ':node:' .. node, unpack(PLACING)) end

-- Puts a node with this load, or without room when it is nil, among the healthy ones or among the failing ones.
local function stand(kind, renderer, node, load, health, supply)
  local tail = kind .. ':' .. renderer
  local open, h = P .. ':open:' .. tail, read_health(health)
  if not h or not h.failing then
    if load then call('ZADD', open, load + handicap(renderer, supply), node) else call('ZREM', open, node) end
    return
  end
  call('ZREM', open, node)
  call('ZADD', P .. ':sick', int(h.next_probe), renderer .. ' ' .. node)
  if load then
    call('ZADD', P .. ':failing:' .. tail, load, node)
    call('ZADD', P .. ':probes:' .. tail, int(h.next_probe), node)
  else
    call('ZREM', P .. ':failing:' .. tail, node)
    call('ZREM', P .. ':probes:' .. tail, node)
  end
end

-- The load of a node with so many taken slots for one more spawn. Where none may be placed, nil and why: 'closed', 'full',
-- 'gpus', or 'unreadable' when the record is broken. h: fields as in PLACING.
local function load_for(renderer, h, used)
  local slots, gpus, gused = tonumber(h[4]), tonumber(h[5]), tonumber(h[6])
  if h[7] ~= '1' then return nil, 'closed' end
  if not slots or not gpus or not h[10] then return nil, 'unreadable' end
  if used >= slots then return nil, 'full' end
  local load = used / math.max(slots, 1)
  if renderer == 'ssr' and gpus >= 0 then
    if not gused then return nil, 'unreadable' end
    if gused >= gpus then return nil, 'gpus' end
    if gpus > 0 then load = math.max(load, gused / gpus) end
  end
  return load
end

-- Puts a node into the indexes. h: fields as in PLACING; used: its taken slots.
local function shelve(node, h, used)
  if h[2] == '1' then stand(h[1], 'csr', node, load_for('csr', h, used), h[8], h[11]) end
  if h[3] == '1' then stand(h[1], 'ssr', node, load_for('ssr', h, used), h[9], h[11]) end
end

local function place(node)
  local h = placing(node)
  if h[1] then shelve(node, h, call('HLEN', P .. ':held:' .. node)) end
end

-- A node is not failing for a renderer any more.
local function recovered(kind, renderer, node)
  call('ZREM', P .. ':failing:' .. kind .. ':' .. renderer, node)
  call('ZREM', P .. ':probes:' .. kind .. ':' .. renderer, node)
  call('ZREM', P .. ':sick', renderer .. ' ' .. node)
end

-- Brings the indexes up to date after a change of eligibility or availability.
local function enrol(node)
  local key = P .. ':node:' .. node
  local h = call('HMGET', key, 'kind', 'csr', 'ssr', 'elig', 'avail', 'hcsr', 'hssr')
  if not h[1] then return end
  local placeable = h[4] == 'eligible' and h[5] == 'up'
  call('HSET', key, 'placeable', placeable and '1' or '0')
  for i, renderer in ipairs(RENDERERS) do
    if h[i + 1] == '1' then
      local members = P .. ':members:' .. h[1] .. ':' .. renderer
      call('SADD', P .. ':known:' .. h[1] .. ':' .. renderer, node)
      if placeable then call('SADD', members, node) else call('SREM', members, node) end
      -- Left over from when the node was failing, if its record was lost since.
      local tail = h[1] .. ':' .. renderer
      if not is_failing(h[i + 5])
        and call('EXISTS', P .. ':sick', P .. ':failing:' .. tail, P .. ':probes:' .. tail) > 0
      then
        recovered(h[1], renderer, node)
      end
    end
  end
  place(node)
end

-- Takes a node out of every index, before its kind changes or it is forgotten.
local function strike(node)
  local kind = call('HGET', P .. ':node:' .. node, 'kind')
  if not kind then return end
  local left = 0
  for _, renderer in ipairs(RENDERERS) do
    local tail = kind .. ':' .. renderer
    call('SREM', P .. ':known:' .. tail, node)
    call('SREM', P .. ':members:' .. tail, node)
    call('ZREM', P .. ':open:' .. tail, node)
    recovered(kind, renderer, node)
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
  if string.sub(hold, 2, 2) == 'g' then
    call('HSET', key, 'gused', int(math.max((tonumber(call('HGET', key, 'gused')) or 0) - 1, 0)))
  end
  disown(hold, spawn)
  return true
end

-- What follows when slots of a node came back. A node that is down was published as drained when it went down.
local function settle(node)
  place(node)
  local is = call('HMGET', P .. ':node:' .. node, 'elig', 'avail')
  if is[1] == 'draining' and is[2] ~= 'down' and call('HLEN', P .. ':held:' .. node) == 0 then
    publish(now, 'node.drained', node, '', '{}')
  end
  wake_line()
end

local function free(node, spawn)
  if let_go(node, spawn) then settle(node) end
end

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

-- Whether a node's heartbeats are late. Where the index of heartbeats is lost, the node's record decides.
local function is_late(node)
  local beat = tonumber(call('ZSCORE', P .. ':up', node) or call('HGET', P .. ':node:' .. node, 'beat'))
  if not beat then return true end
  return beat <= now - STALE and silent_since() <= now - STALE
end

-- Calls nodes stale whose heartbeats are late, the most silent first; `most` at the most. Returns how many.
local function expire_beats(most)
  if silent_since() > now - STALE then return 0 end
  local late = call('ZRANGEBYSCORE', P .. ':up', '-inf', now - STALE, 'LIMIT', 0, most)
  for _, node in ipairs(late) do call_stale(node) end
  return #late
end
