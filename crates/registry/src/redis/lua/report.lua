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
-- This file takes in what the report says of the node; apply.lua and reconcile.lua come after it. changes.lua takes most reports without a
-- heartbeat.
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

local function is_drain(text)
  local drain = is_object(text)
  return drain and type(drain.deadline) == 'string' and type(drain.startedAt) == 'string'
end

local freed, slots_changed, has_judged = false, false, false
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
    call('SET', P .. ':kindver', next_seq())
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

-- A copy of held:<n>, while a heartbeat's list is compared with it; and pings that the list brings and that were not known, as relay_pings
-- takes them.
local holds, pings
