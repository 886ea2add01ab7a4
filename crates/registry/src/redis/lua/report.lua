-- Takes in what an agent reports: first the heartbeat's description, then the changes, then the heartbeat's list.
-- ARGV: node, epoch, 1 to take over, 1 with a heartbeat;
--   with a heartbeat: description, kind, kind as JSON, slots, GPU slots or -1, 1 with csr, 1 with ssr, advertise, load, GPUs,
--     the operator's wish as the agent remembers it (eligibility, and with a drain: ms left, ms since it was asked for, reason
--     and who asked as JSON or null; else four times ''), which counts only when the node is not known,
--     count and ids of forgotten reservations, count and fields of spawns;
--   count of changes, and for each: serial, age, fields of the spawn.
-- Fields of a spawn: id, state, renderer, endpoint, GPU or '', labels, owner or '', ms since started, since ready or '',
--   since its last ping or '', since its end or '', exit or '', data of the event.
-- Returns {'superseded'} · {'unknown'} · {'ok', eligibility, drain, now, abandoned …}.
local SPAWN_FIELDS = 13
local i = A
local function arg()
  i = i + 1
  return ARGV[i]
end
local node, epoch, takeover, heartbeat = arg(), arg(), arg() == '1', arg() == '1'
local key, held = P .. ':node:' .. node, P .. ':held:' .. node
local old = call('HMGET', key, 'epoch', 'avail', 'desc', 'serial', 'kind', 'gpus')
if old[1] and old[1] ~= epoch and not takeover then return { 'superseded' } end
if not old[1] and not heartbeat then return { 'unknown' } end

-- A time as RFC 3339 in UTC, as Timestamp in the model crate writes it. Days are counted in eras of 400 years from
-- 0000-03-01, so that the leap day comes last.
local function rfc3339(ms)
  local days, rest = math.floor(ms / 86400000), ms % 86400000
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(rest / 3600000),
    math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

-- The wish of a node that is not known.
local function recall(eligibility, left, age, reason, by)
  local drain = ''
  if left ~= '' then
    drain = '{"deadline":"' .. rfc3339(now + left) .. '","startedAt":"' .. rfc3339(now - age) .. '"'
    if reason ~= 'null' then drain = drain .. ',"reason":' .. reason end
    if by ~= 'null' then drain = drain .. ',"by":' .. by end
    drain = drain .. '}'
  end
  call('HSET', key, 'elig', eligibility, 'drain', drain, 'gused', 0)
end

local function register()
  local renewed = false
  local desc, kind, kind_json = arg(), arg(), arg()
  local slots, gpus, csr, ssr = arg(), arg(), arg(), arg()
  local advertise, load, gpu_list = arg(), arg(), arg()
  local eligibility, left, age, reason, by = arg(), arg(), arg(), arg(), arg()
  old[5], old[6] = kind, gpus
  call('HSET', key, 'load', load, 'gpulist', gpu_list, 'beat', int(now))
  call('ZADD', P .. ':up', int(now), node)
  if old[1] == epoch and old[2] == 'up' and old[3] == desc then return end

  local moved = old[1] and old[3] ~= desc
  if moved then strike(node) end
  if not old[1] then
    call('SADD', P .. ':names', node)
    recall(eligibility, left, age, reason, by)
  end
  if old[1] ~= epoch then
    call('HSET', key, 'epoch', epoch, 'serial', 0)
    old[4] = '0'
    renewed = old[1]
  end
  call('HSET', key, 'avail', 'up', 'desc', desc, 'kind', kind, 'slots', slots, 'gpus', gpus, 'csr', csr, 'ssr', ssr,
    'advertise', advertise)
  call('ZREM', P .. ':stale', node)
  call('ZREM', P .. ':down', node)
  if call('HSETNX', P .. ':kinds', kind, kind_json) == 1 then
    call('SET', P .. ':kindver', int(next_seq()))
  end
  enrol(node)
  nudge_line()
  if moved then tell(now, 'node.capacity', node, '', '{}') end
  if old[2] ~= 'up' then tell(now, 'node.up', node, '', '{}') end
  if renewed then node_renewed(node) end
end

-- Since when: ms ago to a point in time.
local function since(age) return age ~= '' and int(now - age) or '' end

-- A picture of held:<n>, when a heartbeat's list is compared with it.
local holds
local function hold_of(spawn)
  if holds then return holds[spawn] end
  return call('HGET', held, spawn)
end

local freed = false

-- Pings that a heartbeat tells and that were not known, as members of a JSON object.
local pings

-- What the first event of a spawn says of it whatever its state, so that a follower can make its record.
local function introduced(data, state, renderer, endpoint, gpu, labels, owner, started, ready)
  local intro = '{"rendererType":"' .. renderer .. '","startedAt":"' .. rfc3339(now - started) .. '"'
  if state ~= 'ready' then intro = intro .. ',"endpoint":' .. cjson.encode(endpoint) end
  if ready ~= '' then intro = intro .. ',"readyAt":"' .. rfc3339(tonumber(ready)) .. '"' end
  if labels ~= '{}' then intro = intro .. ',"labels":' .. labels end
  if owner ~= '' then intro = intro .. ',"owner":' .. cjson.encode(owner) end
  if gpu ~= '' then intro = intro .. ',"gpu":' .. gpu end
  return intro .. (data == '{}' and '}' or ',' .. string.sub(data, 2))
end

-- Brings one spawn's record, slot and history to what its agent says. Returns its id.
local function apply(at)
  local id, state, renderer, endpoint, gpu, labels, says = arg(), arg(), arg(), arg(), arg(), arg(), arg()
  local started, ready, ping, ended, exit, data = arg(), since(arg()), since(arg()), since(arg()), arg(), arg()
  local record = P .. ':spawn:' .. id
  local was = call('HMGET', record, 'state', 'ping', 'ready', 'events', 'owner')
  if was[1] == 'exited' then return id end
  local looks = holds or not was[1]
  local hold = looks and hold_of(id)
  -- Whose it is was said by its reservation; an agent that has taken it over may not know.
  local owner = hold and #hold > 2 and string.sub(hold, 3) or says
  -- A slot is held from a spawn's first report on; a heartbeat looks again.
  if state ~= 'exited' and looks then
    local want = (gpu ~= '' and 'Ag' or 'A-') .. owner
    if hold ~= want then
      call('HSET', held, id, want)
      own(owner, node, id)
      if holds then holds[id] = want end
      local before = hold and string.sub(hold, 2, 2) == 'g' and 1 or 0
      local after = gpu ~= '' and 1 or 0
      if before ~= after then call('HINCRBY', key, 'gused', after - before) end
      call('ZREM', P .. ':expiries', id .. node)
    end
  end
  if was[1] == state then
    -- Ages are rounded, so the same ping comes out a few milliseconds apart.
    if ping ~= '' and (was[2] == '' or math.abs(ping - was[2]) > 50) then
      call('HSET', record, 'ping', ping)
      if pings then pings[#pings + 1] = '"' .. id .. '":"' .. rfc3339(tonumber(ping)) .. '"' end
    end
    return id
  end
  local kind = 'spawn.' .. state
  if was[1] then
    -- It counts again.
    if was[1] == 'lost' and state ~= 'exited' then own(was[5] or '', node, id) end
    -- It may have had to take another port before it was ready.
    tell_spawn(at, kind, node, id, data, was[4], 'state', state, 'endpoint', endpoint, 'ended', ended, 'exit', exit,
      -- An agent that has only just taken it over has not heard of it yet.
      'ping', ping ~= '' and ping or was[2], 'ready', was[3] ~= '' and was[3] or ready)
  else
    if state ~= 'launching' and state ~= 'exited' then
      data = introduced(data, state, renderer, endpoint, gpu, labels, owner, started, ready)
    elseif state == 'launching' and owner ~= says then
      data = '{"owner":' .. cjson.encode(owner) .. ',' .. string.sub(data, 2)
    end
    local seq = tell_spawn(at, kind, node, id, data, nil, 'node', node, 'endpoint', endpoint, 'renderer', renderer,
      'state', state, 'started', since(started), 'ready', ready, 'ping', ping, 'ended', ended, 'exit', exit,
      'gpu', gpu, 'labels', labels, 'owner', owner, 'pool', old[5]:match('^[^|]*'))
    call('ZADD', P .. ':spawns', seq, id)
    call('ZADD', P .. ':spawns:' .. node, seq, id)
    if owner ~= '' then call('ZADD', P .. ':spawns-of:' .. owner, seq, id) end
  end
  if state == 'exited' then
    call('ZADD', P .. ':ended', int(now), id)
    freed = let_go(node, id) or freed
    if holds then holds[id] = nil end
    note_end(node, renderer, was[3], ended, exit)
  end
  return id
end

local forgotten, listed, list_from = {}, nil, nil
if heartbeat then
  register()
  for _ = 1, tonumber(arg()) do forgotten[#forgotten + 1] = arg() end
  listed, list_from = tonumber(arg()), i
  i = i + listed * SPAWN_FIELDS -- the list is applied after the changes
end

local serial = tonumber(old[4] or 0)
local last = serial
for _ = 1, tonumber(arg()) do
  local s, age = tonumber(arg()), tonumber(arg())
  if s > last then
    apply(now - age)
    serial = s
  else
    i = i + SPAWN_FIELDS
  end
end
if serial ~= last then call('HSET', key, 'serial', int(serial)) end

if heartbeat then
  local present = {}
  i = list_from
  holds, pings = {}, {}
  local flat = call('HGETALL', held)
  for h = 1, #flat, 2 do holds[flat[h]] = flat[h + 1] end
  for _ = 1, listed do present[apply(now)] = true end
  if #pings > 0 then tell(now, 'spawn.ping', node, '', '{"pings":{' .. table.concat(pings, ',') .. '}}') end
  for _, spawn in ipairs(forgotten) do call('SREM', P .. ':abandoned:' .. node, spawn) end
  local gone = {}
  for spawn, hold in pairs(holds) do
    if string.sub(hold, 1, 1) == 'A' and not present[spawn] then gone[#gone + 1] = spawn end
  end
  for _, spawn in ipairs(gone) do
    freed = let_go(node, spawn) or freed
    end_unseen(node, spawn)
  end
  for _, spawn in ipairs(forgotten) do
    if string.sub(holds[spawn] or '', 1, 1) == 'X' then
      call('ZREM', P .. ':expiries', spawn .. node)
      freed = let_go(node, spawn) or freed
    end
  end
end
if freed then settle(node) else place(node) end

local operator = call('HMGET', key, 'elig', 'drain')
local answer = { 'ok', operator[1], operator[2], int(now) }
for _, spawn in ipairs(call('SMEMBERS', P .. ':abandoned:' .. node)) do answer[#answer + 1] = spawn end
return done(answer)
