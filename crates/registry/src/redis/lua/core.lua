-- Put before every script but those that begin with lean.lua: the keys, the clock, and numbers.
--
-- KEYS[1] is the farm's prefix, a hash tag, so that all keys of a farm live in one slot; every other key is made from it.
-- ARGV[1..9] are the farm's intervals in milliseconds and bounds, ARGV[10] is a random UUID. Time is Redis time. A script
-- runs alone and whole, so no other client sees a state between its steps.
--
-- The shared parts are split by what scripts need of them: a script makes all its functions anew with each run, so it gets the parts that it
-- uses, and those that it rarely uses in a form that costs nothing until they are called (scripts.rs).
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
--   open:<k>:<r>     zset of those of them that have room -> load, without the failing ones and those on probation, which are in
--   failing:<k>:<r>  the same, and in probes:<k>:<r>, zset -> when the next probe may start there
--   sick             zset "<r> <node>" of all these -> when the next probe may start there
--   cause            hash, why starts fail alike on every node that some requests may use, see learn.lua
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
--   weight           bytes of all records that have ever ended, see records.lua
--   keeps            zset of how long front doors keep ended records, in ms -> when one last said so
--   audit            stream of operators' orders to nodes: i (an id of the entry), t (when), d (JSON); and to spawns: audit:spawns
--   minute:<m>       hash, counts of a minute since the Unix epoch: started, ready, e:<exit reason>, r:<code>, used, total
--   idem:<key>       hash, an idempotency record
--   pings            stream of pings on their way to subscribers; pings:all, pings:of:<n>: there while they are wanted, see pings.lua
--   delivery:<w>     hash of a webhook: holder and until (who delivers, and for how long), cursor ("<seq> <incarnation>")
local P, call, ARGV = KEYS[1], redis.call, ARGV
local STALE, DOWN, RESERVATION, PLACE = ARGV[1] + 0, ARGV[2] + 0, ARGV[3] + 0, ARGV[4] + 0
local HISTORY, HISTORY_COUNT = ARGV[5] + 0, ARGV[6] + 0
local HISTORY_BYTES, EVENTS_COUNT, FORGET = ARGV[7] + 0, ARGV[8] + 0, ARGV[9] + 0
local A = 10 -- the script's own arguments come after this

local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

-- Lua would write large numbers as 1.7e+15.
local function int(n) return string.format('%d', n) end

-- A count, or nil when it is lost or nonsense.
local function count_of(text)
  local n = tonumber(text or '')
  return n and n >= 0 and n < 9007199254740992 and math.floor(n) or nil
end

-- Whether a call has failed that was made by pcall.
local function is_error(answer) return type(answer) == 'table' and answer.err ~= nil end

-- The registry's identity, where a script has read or given one; the last number that this run has given to an event, also as text; and
-- whether it has added an event before.
local incarnation, last_seq, seq_text, has_published
local EVENTS, WAKEUPS = P .. ':events', P .. ':nudges'

-- Numbers are taken from the clock, in microseconds. The clock may have been set back since, so a number may be ahead of
-- it. One that is further ahead than this is damage: it could leave no number for what happens next.
local MAX_AHEAD = 3600 * 1000000
local function is_sound(seq) return seq <= now_us + MAX_AHEAD end

-- Every script that may have taken a sequence number ends with this.
local function done(answer)
  if last_seq then call('SET', P .. ':seq', seq_text) end
  return answer
end
