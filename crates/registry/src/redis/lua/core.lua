-- Put before every script: the keys, the clock, sequence numbers, events and wake-ups.
--
-- KEYS[1] is the farm's prefix, a hash tag, so that all keys of a farm live in one slot; every other key is made from it.
-- ARGV[1..9] are the farm's intervals in milliseconds and bounds, ARGV[10] is a random UUID. Time is Redis time. A script
-- runs alone and whole, so no other client sees a state between its steps.
--
-- Keys that are lost or damaged are expected: every function reads a missing or malformed value as absent, and heartbeats
-- bring the truth back. The form of every key is a contract with the release before this one, whose scripts run on the same
-- keys.
--
-- Keys, after the prefix:
--   incarnation      "<UUID> <ms when it was made>", the registry's identity: a wiped registry has another one
--   check            what a check of writes writes
--   seq              last sequence number given to an event, a wake-up or a ping
--   events, floor    stream of events, entry id <seq>-0; and the last seq that cannot be read any more
--   nudges           stream of wake-ups: an entry means that callers in line, or waiting for a keyed answer, ask again
--   alike            there for a minute after a request has failed in the same way wherever it was tried
--   mended           there for 200 ms after nodes were looked at again because a request found no room
--   names            set of all nodes        up, stale, down   zset node -> time of its last heartbeat, by availability
--   node:<n>         hash, the node          held:<n>          hash spawn -> how the slot is held, see slots.lua
--   abandoned:<n>    set of spawns the agent must end or never start
--   expired:<n>      set of reservations that expired: the agent must not start them any more
--   forgotten:<n>    when an operator had the node forgotten: orders that were given before are not repeated
--   kinds, kindver   hash kind -> JSON, and a number that changes with it
--   known:<k>:<r>    set of all nodes of a kind that offer a renderer
--   members:<k>:<r>  set of those that are up and eligible
--   open:<k>:<r>     zset of those of them that have room -> load, without the failing ones, which are in
--   failing:<k>:<r>  the same, and in probes:<k>:<r>, zset -> when the next probe may start there
--   sick             zset "<r> <node>" of all failing nodes -> when the next probe may start there
--   cause            hash, why starts fail on every node alike, see learn.lua
--   judge            hash at, grace: when heartbeats were last judged, and the moment from which silence counts, see judge.lua
--   expiries         zset spawn..node -> when the reservation expires
--   places, line     zsets of the waiting line, ticket -> when it lapses, and -> its number; lineno: last number
--   avoids           hash ticket -> the nodes that its holder cannot use, with spaces between them
--   wait:<k>:<r>     zset ticket -> number   queues:<ticket>   set of the wait keys it is in
--   waiter:<ticket>  "<ms since when it waits> <JSON of who waits for what>"; lapses by itself where a script of the release before this
--                    one, which does not know it, drops the ticket
--   spawns, spawns:<n>  zsets spawn -> seq of its first event, of the farm and of a node
--   spawns-of:<o>    the same of an owner    owned:<o>         hash spawn -> node, what an owner has, see slots.lua
--   permit:<o>       when an owner's last start would have been due
--   spawn:<id>       hash, the record; its n-th event stands in field e<n>, their number in field events
--   ended            zset spawn -> when it ended
--   weight           bytes of all records that have ever ended, see spawns.lua
--   keeps            zset of how long front doors keep ended records, in ms -> when one last said so
--   audit            stream of operators' orders to nodes: i (an id of the entry), t (when), d (JSON); and to spawns: audit:spawns
--   minute:<m>       hash, counts of a minute since the Unix epoch: started, ready, e:<exit reason>, r:<code>, used, total
--   idem:<key>       hash, an idempotency record
--   pings            stream of pings on their way to subscribers; pings:all, pings:of:<n>: there while they are wanted, see pings.lua
--   delivery:<w>     hash of a webhook: holder and until (who delivers, and for how long), cursor ("<seq> <incarnation>")
local P = KEYS[1]
local call = redis.call
local STALE, DOWN, RESERVATION, PLACE = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local HISTORY, HISTORY_COUNT = tonumber(ARGV[5]), tonumber(ARGV[6])
local HISTORY_BYTES, EVENTS_COUNT, FORGET = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local A = 10 -- the script's own arguments come after this

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

-- Lua would write large numbers as 1.7e+15.
local function int(n) return string.format('%.0f', n) end

-- A count, or nil when it is lost or nonsense.
local function count_of(text)
  local n = tonumber(text or '')
  return n and n >= 0 and n < 9007199254740992 and math.floor(n) or nil
end

-- Whether a call has failed that was made by pcall.
local function is_error(answer) return type(answer) == 'table' and answer.err ~= nil end

-- The first script that runs on an empty registry gives it its identity.
local incarnation = call('GET', P .. ':incarnation')
if not incarnation then
  incarnation = ARGV[10] .. ' ' .. int(now)
  call('SET', P .. ':incarnation', incarnation)
end

-- Whether agents may not have filled the registry yet: it was wiped or went back to an older state a moment ago.
local function is_fresh()
  local age = now - (tonumber(string.sub(incarnation, 38)) or now)
  return call('SCARD', P .. ':names') == 0 or (age >= 0 and age < 2 * STALE)
end

-- The number of a stream's last entry.
local function last_of(stream)
  local last = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

local EVENTS, WAKEUPS = P .. ':events', P .. ':nudges'
local has_published = false -- whether this run has added an event before

-- Numbers are taken from the clock, in microseconds. The clock may have been set back since, so a number may be ahead of
-- it. One that is further ahead than this is damage: it could leave no number for what happens next.
local MAX_AHEAD = 3600 * 1000000
local function is_sound(seq) return seq <= now_us + MAX_AHEAD end

local last_seq

-- Drops the streams and their numbers. The new identity makes every follower begin anew.
local function begin_anew()
  call('DEL', EVENTS, WAKEUPS, P .. ':seq', P .. ':floor')
  incarnation = ARGV[10] .. ' ' .. int(now)
  call('SET', P .. ':incarnation', incarnation)
  last_seq, has_published = nil, false
end

-- The number of the last entry in both streams; nil when there is no number left after it, or a key is no stream.
local function last_sound()
  local ok, last = pcall(function() return math.max(last_of(EVENTS), last_of(WAKEUPS)) end)
  return ok and is_sound(last) and last or nil
end

-- Begins anew where the streams or their number are damaged. Called by sweeps and lists, because without events nothing
-- else would show it.
local function repair_streams()
  local seq = count_of(call('GET', P .. ':seq'))
  if (seq and not is_sound(seq)) or not last_sound() then begin_anew() end
end

-- Sequence numbers rise with every event and, being taken from the clock, go on rising after a wipe. Streams refuse a
-- number that is not higher than their last one, so a lost seq is found again in them.
local function next_seq()
  if not last_seq then
    last_seq = count_of(call('GET', P .. ':seq')) or last_sound()
    if not last_seq or not is_sound(last_seq) then
      begin_anew()
      last_seq = 0
    end
  end
  last_seq = math.max(last_seq + 1, now_us)
  return last_seq
end

-- Whether this answer means that a stream takes no further number, or is no stream.
local function is_damage(answer)
  local why = type(answer) == 'table' and answer.err or ''
  return string.find(why, 'equal or smaller', 1, true) or string.find(why, 'exhausted', 1, true)
    or string.find(why, 'WRONGTYPE', 1, true)
end

-- Every script that may have taken a sequence number ends with this.
local function done(answer)
  if last_seq then call('SET', P .. ':seq', int(last_seq)) end
  return answer
end

-- What is before the first event cannot be read any more.
local function set_floor()
  local first = call('XRANGE', EVENTS, '-', '+', 'COUNT', 1)[1]
  if not first then return end
  local floor = int(string.match(first[1], '^%d+') - 1)
  if call('GET', P .. ':floor') ~= floor then call('SET', P .. ':floor', floor) end
end

-- A follower of the release before this one stops at a kind that it does not know. Field 'k' has a kind that it does know,
-- and field 'x' the real one.
local READ_AS = {
  ['node.failing'] = 'node.capacity', ['node.recovered'] = 'node.capacity', ['spawn.connected'] = 'spawn.ping',
  ['node.forgotten'] = 'node.down',
}

-- Once in each run: keeps the stream short, and its floor right.
local function trim()
  local length = redis.pcall('XLEN', EVENTS)
  if is_damage(length) then
    begin_anew()
    length = 0
  end
  if length == 0 then
    call('SET', P .. ':floor', int(next_seq()))
  elseif length > EVENTS_COUNT + EVENTS_COUNT / 64 then
    call('XTRIM', EVENTS, 'MAXLEN', EVENTS_COUNT)
    set_floor()
  end
  has_published = true
end

-- After a stream has refused a number: goes on after its last one, or begins anew where that does not explain it.
local function recover(stream, refused)
  local ok, last = pcall(last_of, stream)
  if ok and last >= refused and is_sound(last) then last_seq = last else begin_anew() end
end

-- Adds an entry to the events. Redis refuses it when seq was lost and the stream has a higher entry; then it goes on from
-- there.
local function add_event(...)
  if not has_published then trim() end
  local seq = next_seq()
  local added = redis.pcall('XADD', EVENTS, int(seq) .. '-0', ...)
  if type(added) ~= 'table' then return int(seq) end
  if is_damage(added) then
    recover(EVENTS, seq)
    if not has_published then trim() end
    seq = next_seq()
  end
  -- Any other error is raised by this second try.
  call('XADD', EVENTS, int(seq) .. '-0', ...)
  return int(seq)
end

local function publish(at, kind, node, spawn, data)
  if READ_AS[kind] then
    return add_event('k', READ_AS[kind], 'x', kind, 't', int(at), 'n', node, 's', spawn, 'd', data)
  end
  return add_event('k', kind, 't', int(at), 'n', node, 's', spawn, 'd', data)
end

-- Publishes an event of a spawn and writes fields of its record. A record keeps its first hundred events. Returns the seq.
local function publish_spawn(at, kind, node, spawn, data, events, ...)
  local seq = publish(at, kind, node, spawn, data)
  if READ_AS[kind] then
    data = '{"x":"' .. kind .. '"' .. (data == '{}' and '}' or ',' .. string.sub(data, 2))
    kind = READ_AS[kind]
  end
  local record, count = P .. ':spawn:' .. spawn, (tonumber(events) or 0) + 1
  if count <= 100 then
    call('HSET', record, 'events', count, 'e' .. count,
      seq .. '|' .. int(at) .. '|' .. kind .. '|' .. node .. '|' .. data, ...)
  else
    call('HSET', record, ...)
  end
  return seq
end

local function wake()
  local seq = next_seq()
  local added = redis.pcall('XADD', WAKEUPS, 'MAXLEN', 16, int(seq) .. '-0', 'n', '1')
  if type(added) ~= 'table' then return end
  if is_damage(added) then
    recover(WAKEUPS, seq)
    seq = next_seq()
  end
  call('XADD', WAKEUPS, 'MAXLEN', 16, int(seq) .. '-0', 'n', '1')
end

-- Wakes the callers in line, if there are any: they ask again.
local function wake_line()
  if call('ZCARD', P .. ':places') > 0 then wake() end
end

-- Counts something in the minute that it happens in, which is kept for a day and an hour. An agent whose user of Redis is that of the
-- release before this one may not write there: then it is not counted.
local MINUTE_KEPT = 25 * 3600 * 1000
local function tally(field, by)
  local key = P .. ':minute:' .. int(math.floor(now / 60000))
  local count = redis.pcall('HINCRBY', key, field, by or 1)
  if count == (by or 1) then redis.pcall('PEXPIRE', key, MINUTE_KEPT) end
end

local function leave(ticket)
  if call('ZREM', P .. ':places', ticket) == 0 then return false end
  call('ZREM', P .. ':line', ticket)
  call('HDEL', P .. ':avoids', ticket)
  for _, queue in ipairs(call('SMEMBERS', P .. ':queues:' .. ticket)) do
    call('ZREM', queue, ticket)
  end
  call('DEL', P .. ':queues:' .. ticket, P .. ':waiter:' .. ticket)
  return true
end
