-- Takes in an agent's report: first the heartbeat's description, then the changes, then the heartbeat's list. Repeating it
-- changes nothing.
-- ARGV: node, epoch, 1 to take over, instance or '', life, last change known to be accepted, 1 with a heartbeat, digest before the
--   changes or '', digest after them or '';
--   with a heartbeat: description, kind, kind as JSON, slots, GPU slots or -1, 1 with csr, 1 with ssr, advertise, load, supply, GPUs,
--     age of the oldest last ping or '' and then the late spawns with spaces before them,
--     the desired state as the agent remembers it (the order's number, eligibility, and with a drain: ms left, ms since it was
--     asked for, reason and who asked as JSON or null; else four times ''),
--     count and ids of forgotten reservations, count and fields of spawns;
--   count of changes, and for each: serial, age, fields of the spawn.
-- Fields of a spawn: id, state, renderer, endpoint, GPU or '', labels, tags, origin as JSON or '', owner or '', ms since started, since ready or '',
--   since its last ping or '', since its end or '', since its viewer connected or '', since it left or '', ms it may still live
--   or '', exit or '', id of its server where that is not its own or '', data of the event.
-- Returns {'superseded'} · {'taken', advertise} · {'unknown'} · {'behind', serial}
--   · {'ok', eligibility, drain, now, order's number, 1 where pings are wanted, renderers that fail there, count of abandoned, abandoned …, expired …}.
--
-- The field digest of the node stands for what both sides agree on, see keepalive.lua. A list sets it; changes lead from one to the next;
-- whatever else a report does drops it, and then the next keepalive asks for the list.
--
-- A heartbeat with a list repairs what it writes anyway. One with a digest is a full check, as is every fourth one of agents that send
-- nothing but lists, and one that misses its node's name or kind: it writes the whole record of its node and every index that the record
-- stands in. Repairs are no events.
local SPAWN_FIELDS, FULL_CHECK = 19, 4
local ELIGIBILITY = { eligible = true, cordoned = true, draining = true }
local i = A
local function arg()
  i = i + 1
  return ARGV[i]
end
local node, epoch, takeover, instance, life = arg(), arg(), arg() == '1', arg(), tonumber(arg())
local accepted, heartbeat = tonumber(arg()), arg() == '1'
local digest_before, digest_after = arg(), arg()
local key, held = P .. ':node:' .. node, P .. ':held:' .. node

local was = {}
do
  local fields = { 'epoch', 'avail', 'desc', 'serial', 'kind', 'instance', 'life', 'beat', 'advertise', 'elig', 'drain', 'gen',
    'gused', 'beats', 'slots', 'gpus', 'csr', 'ssr', 'digest', 'supply' }
  for f, value in ipairs(call('HMGET', key, unpack(fields))) do was[fields[f]] = value or nil end
end
local known = was.epoch or was.desc or was.elig

-- Whether this agent may speak for the node: 'ok', 'superseded' or 'taken'.
local function verdict()
  if not was.epoch or was.epoch == epoch then return 'ok' end
  local has_identity = instance ~= '' and (was.instance or '') ~= ''
  if not has_identity then return takeover and 'ok' or 'superseded' end
  local beat = tonumber(was.beat or '') or 0
  if beat > now then
    -- The clock was set back. The agent that is remembered has its time from now on.
    call('HSET', key, 'beat', int(now))
    beat = now
  end
  local lives = now - beat < DOWN
  if instance == was.instance then
    -- One state directory is used by one agent at a time.
    local known_life = count_of(was.life) or 0
    if life > known_life then return 'ok' end
    if life < known_life then return takeover and not lives and 'ok' or 'superseded' end
    return takeover and 'ok' or 'superseded'
  end
  if not lives then return 'ok' end
  -- The registry may have been set back to before it accepted this agent. Within DOWN the other one's silence shows that.
  if not heartbeat or ARGV[i + 8] ~= was.advertise then return 'taken' end
  -- Only one of two agents has an address. Epochs are in the order of their starts.
  return (takeover or epoch > was.epoch) and 'ok' or 'superseded'
end

local may = verdict()
if may == 'taken' then return { may, was.advertise or '' } end
if may ~= 'ok' then return { may } end
if not heartbeat and not (was.epoch == epoch and ELIGIBILITY[was.elig or '']) then return { 'unknown' } end

-- The last change that was applied of this epoch. A registry that has no record of the node can lack none of its changes.
local serial = count_of(was.serial) or 0
if known and was.epoch and was.epoch ~= epoch then serial = 0 end
if known and was.epoch and serial < accepted then return { 'behind', int(serial) } end
serial = (known and was.epoch) and serial or accepted

-- The drain that the agent remembers, as JSON in the registry's time.
local function remembered(left, age, reason, by)
  if left == '' then return '' end
  local drain = '{"deadline":"' .. rfc3339(now + left) .. '","startedAt":"' .. rfc3339(now - age) .. '"'
  if reason ~= 'null' then drain = drain .. ',"reason":' .. reason end
  if by ~= 'null' then drain = drain .. ',"by":' .. by end
  return drain .. '}'
end

local function is_object(text)
  local ok, value = pcall(cjson.decode, text)
  return ok and type(value) == 'table' and value
end

local function is_drain(text)
  local drain = is_object(text)
  return drain and type(drain.deadline) == 'string' and type(drain.startedAt) == 'string'
end

local freed, slots_changed = false, false
local kind
-- Whether this heartbeat is a full check.
local full

-- The desired state that the agent remembers: the order's number, eligibility, drain.
local desired
-- Restores the fields of an order that the registry has lost, whatever its number.
local function repair_order()
  local generation, eligibility, drain = unpack(desired)
  if not ELIGIBILITY[was.elig or ''] then
    generation = math.max(generation, count_of(was.gen) or 0)
    call('HSET', key, 'elig', eligibility, 'drain', drain, 'gen', int(generation))
    was.elig, was.drain, was.gen = eligibility, drain, int(generation)
  elseif not count_of(was.gen) and was.elig == eligibility then
    call('HSET', key, 'gen', int(generation))
    was.gen = int(generation)
  elseif not was.drain or (was.drain ~= '' and not is_drain(was.drain)) then
    was.drain = was.elig == 'draining' and drain or ''
    call('HSET', key, 'drain', was.drain)
  end
end

-- Keys of the whole farm.
local function repair_farm(kind, kind_json)
  repair_streams()
  if call('HGET', P .. ':kinds', kind) ~= kind_json or call('EXISTS', P .. ':kindver') == 0 then
    call('HSET', P .. ':kinds', kind, kind_json)
    call('SET', P .. ':kindver', int(next_seq()))
  end
  set_floor()
end

-- Whether keys are lost without which no request finds any node.
local function is_lost()
  return call('SISMEMBER', P .. ':names', node) == 0 or call('HEXISTS', P .. ':kinds', kind) == 0
    or call('EXISTS', P .. ':kindver') == 0
end

local function register()
  local desc, kind_json
  desc, kind, kind_json = arg(), arg(), arg()
  local slots, gpus, csr, ssr = arg(), arg(), arg(), arg()
  local advertise, load, supply, gpu_list = arg(), arg(), arg(), arg()
  local oldest, late = string.match(arg(), '^(%d*)(.*)$')
  desired = { tonumber(arg()), arg(), remembered(arg(), arg(), arg(), arg()) }
  local beats = (count_of(was.beats) or 0) + 1
  call('HSET', key, 'load', load, 'supply', supply, 'gpulist', gpu_list, 'beat', int(now), 'beats', int(beats % FULL_CHECK),
    'heard', oldest ~= '' and int(now - oldest) .. late or '')
  call('ZADD', P .. ':up', int(now), node)
  -- Among nodes of the same load it stands elsewhere now.
  slots_changed = slots_changed or was.supply ~= supply
  local differs = was.epoch ~= epoch or was.avail ~= 'up' or was.desc ~= desc or was.kind ~= kind or was.slots ~= slots
    or was.gpus ~= gpus or was.csr ~= csr or was.ssr ~= ssr or was.advertise ~= advertise or was.instance ~= instance
    or was.life ~= int(life)
  full = digest_after ~= '' or differs or beats % FULL_CHECK == 0 or is_lost()
  if differs then
    if was.desc ~= desc or was.kind ~= kind then strike(node) end
    call('HSET', key, 'epoch', epoch, 'instance', instance, 'life', int(life), 'avail', 'up', 'desc', desc, 'kind', kind,
      'slots', slots, 'gpus', gpus, 'csr', csr, 'ssr', ssr, 'advertise', advertise)
    call('ZREM', P .. ':stale', node)
    call('ZREM', P .. ':down', node)
  end
  repair_order()
  if not full then return end
  repair_farm(kind, kind_json)
  local is_new = call('SADD', P .. ':names', node) == 1 and not known
  enrol(node)
  local moved = was.desc and was.desc ~= desc and is_object(was.desc)
  local back = is_new or was.avail == 'stale' or was.avail == 'down'
  if moved or back or was.epoch ~= epoch then wake_line() end
  if moved then publish(now, 'node.capacity', node, '', '{}') end
  if back then publish(now, 'node.up', node, '', '{}') end
  if was.epoch and was.epoch ~= epoch then node_renewed(node) end
end

-- An age in ms as a point in time.
local function since(age) return age ~= '' and int(now - age) or '' end

-- A copy of held:<n>, while a heartbeat's list is compared with it.
local holds
local function hold_of(spawn)
  if holds then return holds[spawn] end
  return call('HGET', held, spawn)
end

local wants_pings = heartbeat and are_pings_wanted(node)

-- Pings that a heartbeat brings and that were not known, as relay_pings takes them.
local pings

-- The data of a spawn's first event, whatever its state, with what a follower needs to make a record of it. Built here, as
-- the owner and the times are known only here, see outcomes.lua; Rust would have to send these members with every
-- heartbeat, and they are used once in a spawn's life at the most.
local function introduced(data, state, renderer, endpoint, gpu, labels, tags, owner, started, ready, connected, disconnected,
  server)
  local intro = '{"rendererType":"' .. renderer .. '","startedAt":"' .. rfc3339(now - started) .. '"'
  if state ~= 'ready' then intro = intro .. ',"endpoint":' .. cjson.encode(endpoint) end
  if ready ~= '' then intro = intro .. ',"readyAt":"' .. rfc3339(tonumber(ready)) .. '"' end
  if connected ~= '' then intro = intro .. ',"connectedAt":"' .. rfc3339(tonumber(connected)) .. '"' end
  if disconnected ~= '' then intro = intro .. ',"disconnectedAt":"' .. rfc3339(tonumber(disconnected)) .. '"' end
  if labels ~= '{}' then intro = intro .. ',"labels":' .. labels end
  if tags ~= '{}' then intro = intro .. ',"tags":' .. tags end
  if owner ~= '' then intro = intro .. ',"owner":' .. cjson.encode(owner) end
  if gpu ~= '' then intro = intro .. ',"gpu":' .. gpu end
  if server ~= '' then intro = intro .. ',"serverId":"' .. server .. '"' end
  return intro .. (data == '{}' and '}' or ',' .. string.sub(data, 2))
end

-- What a record says of its spawn's viewer after a report, and whether a viewer has come; viewing.rs does the same.
local function viewing(had_connected, had_disconnected, connected, disconnected)
  had_connected = tonumber(had_connected or '') and had_connected or ''
  had_disconnected = tonumber(had_disconnected or '') and had_disconnected or ''
  if connected == '' then return had_connected, had_disconnected, false end
  local was_on = had_connected ~= '' and had_disconnected == ''
  if disconnected == '' then
    if was_on then return had_connected, '', false end
    return connected, '', true
  end
  if had_connected ~= '' and not was_on then return had_connected, had_disconnected, false end
  return was_on and had_connected or connected, disconnected, false
end

-- When a spawn is ended at the latest, by the record and by a report.
local function expiry(known, report)
  known = known or ''
  if report == '' or (tonumber(known) and math.abs(known - report) < 1000) then return known end
  return report
end

-- Brings one spawn's record, slot and history to what its agent reports. Returns its id and owner.
local function apply(at, listed)
  local id, state, renderer, endpoint, gpu, labels, tags, origin = arg(), arg(), arg(), arg(), arg(), arg(), arg(), arg()
  local says = arg()
  local started, ready, ping, ended = arg(), since(arg()), since(arg()), since(arg())
  local connected, disconnected, life_left, exit, server, data = since(arg()), since(arg()), arg(), arg(), arg(), arg()
  local record = P .. ':spawn:' .. id
  local had = call('HMGET', record, 'state', 'ping', 'ready', 'events', 'owner', 'exit', 'endpoint', 'renderer', 'started',
    'connected', 'disconnected', 'expires', 'tags', 'origin', 'gpu', 'labels', 'server')
  if had[1] == 'exited' then
    -- The agent's word on an end replaces node-lost, the end of a spawn that was only missing from a list.
    if state == 'exited' and had[6] == UNSEEN and exit ~= UNSEEN then
      publish_spawn(at, 'spawn.exited', node, id, data, had[4], 'ended', ended, 'exit', exit)
    end
    -- What an agent lists lives, whatever the record says. A late change does not bring it back.
    if state == 'exited' or not listed then return id, had[5] or '' end
  end
  local looks = holds or not had[1]
  local hold = looks and hold_of(id)
  -- The reservation names the owner. An agent that has adopted the spawn may not know it.
  local owner = hold and #hold > 2 and string.sub(hold, 3) or (had[5] and had[5] ~= '' and had[5]) or says
  -- A full check believes an agent that knows the owner before the registry's own keys, which may be damaged.
  if full and listed and says ~= '' then owner = says end
  -- The slot is the agent's from the first report on. Heartbeats check it again.
  if state ~= 'exited' and looks then
    local want = (gpu ~= '' and 'Ag' or 'A-') .. owner
    if hold ~= want then
      slots_changed = true
      call('HSET', held, id, want)
      if hold and string.sub(hold, 3) ~= owner then disown(hold, id) end
      own(owner, node, id)
      if holds then holds[id] = want end
      local before = hold and string.sub(hold, 2, 2) == 'g' and 1 or 0
      local after = gpu ~= '' and 1 or 0
      if before ~= after then call('HINCRBY', key, 'gused', after - before) end
      call('ZREM', P .. ':expiries', id .. node)
    end
  end
  -- The caller's tags never change, nor does the request. An agent that has adopted the spawn may not know them.
  -- One that was rolled back may know less of the request than the record has.
  local recorded = had[14] or ''
  if recorded ~= '' and recorded ~= origin and (origin == '' or is_object(recorded)) then origin = recorded end
  if tags == '{}' then tags = (had[13] or '') ~= '' and had[13] or '{}' end
  if server == '' then server = had[17] or '' end
  local came
  connected, disconnected, came = viewing(had[10], had[11], connected, disconnected)
  local expires = expiry(had[12], life_left ~= '' and int(now + life_left) or '')
  if had[1] == state then
    if came then
      publish_spawn(at, 'spawn.connected', node, id, '{}', had[4], 'connected', connected, 'disconnected', '')
    elseif connected ~= (had[10] or '') or disconnected ~= (had[11] or '') then
      call('HSET', record, 'connected', connected, 'disconnected', disconnected)
    end
    if expires ~= (had[12] or '') then call('HSET', record, 'expires', expires) end
    if tags ~= (had[13] or '{}') then call('HSET', record, 'tags', tags) end
    if origin ~= (had[14] or '') then call('HSET', record, 'origin', origin) end
    if server ~= (had[17] or '') then call('HSET', record, 'server', server) end
    -- Ages are rounded, so the same ping comes out a few milliseconds apart.
    if ping ~= '' and (not tonumber(had[2] or '') or math.abs(ping - had[2]) > 50) then
      call('HSET', record, 'ping', ping)
      if pings then pings[#pings + 1] = id .. ' ' .. ping end
    end
    if full and listed then repair_record(id, record, had, owner, endpoint, renderer, since(started), gpu, labels) end
    return id, owner
  end
  local event = 'spawn.' .. state
  if had[1] and had[1] ~= 'exited' then
    -- It counts again.
    if had[1] == 'lost' and state ~= 'exited' then own(had[5] or '', node, id) end
    if (had[3] or '') == '' and ready ~= '' then tally('ready') end
    -- It may have had to take another port before it was ready.
    publish_spawn(at, event, node, id, data, had[4], 'state', state, 'endpoint', endpoint, 'ended', ended, 'exit', exit,
      -- An agent that has just adopted the spawn has no ping of it yet.
      'ping', ping ~= '' and ping or had[2] or '', 'ready', (had[3] or '') ~= '' and had[3] or ready,
      'connected', connected, 'disconnected', disconnected, 'expires', expires, 'tags', tags, 'origin', origin, 'server', server)
    if came then publish_spawn(at, 'spawn.connected', node, id, '{}', (tonumber(had[4]) or 0) + 1, 'connected', connected) end
  else
    if state ~= 'launching' and state ~= 'exited' then
      data = introduced(data, state, renderer, endpoint, gpu, labels, tags, owner, started, ready, connected,
        disconnected, server)
    elseif state == 'launching' and owner ~= says then
      data = '{"owner":' .. cjson.encode(owner) .. ',' .. string.sub(data, 2)
    end
    local seq = publish_spawn(at, event, node, id, data, had[4], 'node', node, 'endpoint', endpoint, 'renderer', renderer,
      'state', state, 'started', since(started), 'ready', (had[3] or '') ~= '' and had[3] or ready, 'ping',
      ping ~= '' and ping or had[2] or '', 'ended', ended, 'exit', exit, 'gpu', gpu, 'labels', labels,
      'tags', tags, 'origin', origin, 'owner', owner, 'pool', string.match(kind, '^[^|]*'), 'connected', connected,
      'disconnected', disconnected, 'expires', expires, 'server', server)
    call('ZREM', P .. ':ended', id)
    index_spawn(node, id, owner, seq)
    -- What only a list brings is no news: a registry that was wiped is being filled again.
    if not had[1] and not listed then
      tally('started')
      if ready ~= '' then tally('ready') end
    end
  end
  if state == 'exited' then
    note_ended(id)
    tally_end(exit)
    freed = let_go(node, id) or freed
    if holds then holds[id] = nil end
    note_end(node, renderer, had[3] or '', ended, exit)
  end
  return id, owner
end

local forgotten, listed, list_from = {}, nil, nil
-- HINCRBY fails on a malformed count.
if not count_of(was.gused) then call('HSET', key, 'gused', 0) end
if heartbeat then
  register()
  for _ = 1, tonumber(arg()) do forgotten[#forgotten + 1] = arg() end
  listed, list_from = tonumber(arg()), i
  i = i + listed * SPAWN_FIELDS -- the list is applied after the changes
else
  kind = was.kind or ''
end

local before, sent = serial, accepted
for _ = 1, tonumber(arg()) do
  local s, age = tonumber(arg()), tonumber(arg())
  sent = math.max(sent, s)
  if s > before then
    apply(now - age, false)
    serial = s
  else
    i = i + SPAWN_FIELDS
  end
end
if tostring(serial) ~= was.serial then call('HSET', key, 'serial', int(serial)) end

local expired = call('SMEMBERS', P .. ':expired:' .. node)

-- Takes a reservation's slot back.
local function drop_hold(spawn)
  freed = let_go(node, spawn) or freed
  holds[spawn] = nil
end

-- Makes the registry agree with the heartbeat's list.
local function reconcile()
  local present, known_here = {}, {}
  i = list_from
  holds, pings = {}, {}
  local flat = call('HGETALL', held)
  for h = 1, #flat, 2 do holds[flat[h]] = flat[h + 1] end
  for _ = 1, listed do
    local id, owner = apply(now, true)
    present[id], known_here[id] = owner, true
  end
  if #pings > 0 and wants_pings then relay_pings(node, next_seq(), table.concat(pings, ' ')) end
  local gone, gpus = {}, 0
  for spawn, hold in pairs(holds) do
    local why = string.sub(hold, 1, 1)
    if why == 'A' and not present[spawn] then
      gone[#gone + 1] = spawn
    elseif why ~= 'A' and full then
      -- Without an expiry its slot would never come back.
      call('ZADD', P .. ':expiries', 'NX', int(now + RESERVATION), spawn .. node)
    end
  end
  for _, spawn in ipairs(gone) do
    drop_hold(spawn)
    end_unseen(node, spawn)
  end
  for _, spawn in ipairs(forgotten) do
    call('SREM', P .. ':abandoned:' .. node, spawn)
    known_here[spawn] = true
    if string.sub(holds[spawn] or '', 1, 1) == 'X' then
      call('ZREM', P .. ':expiries', spawn .. node)
      drop_hold(spawn)
    end
  end
  -- The agent knows of these: they run, or never will.
  for e = #expired, 1, -1 do
    if known_here[expired[e]] then call('SREM', P .. ':expired:' .. node, table.remove(expired, e)) end
  end
  for _, hold in pairs(holds) do
    if string.sub(hold, 2, 2) == 'g' then gpus = gpus + 1 end
  end
  if slots_changed or freed or was.gused ~= int(gpus) then
    call('HSET', key, 'gused', int(gpus))
    slots_changed = true
  end
  if full then repair_indexes(node, present) end
end

-- A delayed report may arrive after later ones. Its list is older than their changes, and would undo them. Agents without
-- an identity do not send what was accepted.
local is_whole = heartbeat and (instance == '' or sent >= before)
if is_whole then reconcile() end
-- Changes lead from one digest to the next only where all of them were applied, each once. A repeated report has led there before.
local leads = was.digest and (was.digest == digest_before or serial == before and was.digest == digest_after)
local agrees = is_whole or not heartbeat and sent >= before and leads
if digest_after ~= '' and agrees then
  if was.digest ~= digest_after then call('HSET', key, 'digest', digest_after) end
elseif was.digest then
  call('HDEL', key, 'digest')
end
-- An order that the agent has and this registry lacks.
if heartbeat and desired[1] > (count_of(was.gen) or 0) then
  local drain = desired[3]
  set_order(node, { was.elig, was.drain or '' }, desired[2], drain, desired[1], drain == '' and '{}' or drain)
  was.elig, was.drain, was.gen = desired[2], drain, int(desired[1])
end
if freed then
  settle(node)
elseif full or slots_changed then
  place(node)
end

local abandoned = call('SMEMBERS', P .. ':abandoned:' .. node)
-- As this report has left it: an end may count against the node, and another agent begins anew.
local health = call('HMGET', key, 'hcsr', 'hssr')
local fails = (is_failing(health[1]) and 'csr ' or '') .. (is_failing(health[2]) and 'ssr' or '')
local answer = { 'ok', was.elig, was.drain or '', int(now), int(count_of(was.gen) or 0),
  wants_pings and '1' or '0', fails, #abandoned }
for _, spawn in ipairs(abandoned) do answer[#answer + 1] = spawn end
for _, spawn in ipairs(expired) do answer[#answer + 1] = spawn end
return done(answer)
