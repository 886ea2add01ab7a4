-- Where nodes stand in the indexes of room.

local RENDERERS = { 'csr', 'ssr' }

-- The fields of a node's record that decide where it stands in the indexes, in the order that the functions below expect.
local PLACING = { 'kind', 'csr', 'ssr', 'slots', 'gpus', 'gused', 'placeable', 'hcsr', 'hssr', 'advertise', 'supply' }

local function placing(node) return call('HMGET', P .. ':node:' .. node, unpack(PLACING)) end

-- Puts a node with this load, or without room when it is nil, among the healthy ones or among the failing ones and those on probation.
local function stand(kind, renderer, node, load, health, supply)
  local tail = kind .. ':' .. renderer
  local open, h = P .. ':open:' .. tail, health and read_health(health)
  if not h or not is_avoided(h) then
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
