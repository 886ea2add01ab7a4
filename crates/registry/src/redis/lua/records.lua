-- Spawn records: their indexes, and what follows from an end.

-- The exit of a spawn whose node was given up, or whose agent does not know it.
local UNSEEN = '{"reason":"node-lost"}'

-- The indexes of all spawns, of a node's and of an owner's are in the order of first events. Returns how many lacked it.
local function index_spawn(node, spawn, owner, seq)
  local lacked = call('ZADD', P .. ':spawns', 'NX', seq, spawn) + call('ZADD', P .. ':spawns:' .. node, 'NX', seq, spawn)
  if owner ~= '' then lacked = lacked + call('ZADD', P .. ':spawns-of:' .. owner, 'NX', seq, spawn) end
  return lacked
end

-- What a record and its places in the indexes take of Redis beside the text, in bytes: for the record, for each of its fields with its name
-- and a short value, and for each event beyond those that are read. docs/operator/sizing.md says how it was measured.
local RECORD_BYTES, FIELD_BYTES, EVENT_BYTES, READ_EVENTS = 1250, 56, 120, 6

-- The bytes of a record with so many events. Its long fields are read: they are the texts of callers and agents.
local function weigh(record, events)
  local texts = call('HMGET', record, 'endpoint', 'labels', 'tags', 'origin', 'exit', 'e1', 'e2', 'e3', 'e4', 'e5', 'e6')
  local bytes = RECORD_BYTES + FIELD_BYTES * call('HLEN', record) + EVENT_BYTES * math.max(math.min(events, 100) - READ_EVENTS, 0)
  for t = 1, #texts do
    if texts[t] then bytes = bytes + #texts[t] end
  end
  return bytes
end

-- Notes that a spawn has ended, whose record has so many events. `weight` is the sum of the bytes of all records that have ever ended, and
-- each record has the sum as of its end (weighed): the difference is what has ended since, so that no deletion has to be subtracted, and
-- nothing drifts. A lost sum goes on from the newest record. Agents whose user of Redis is that of the release before this one cannot
-- write it: then the count of records is their only bound.
local function note_ended(spawn, events)
  local record = P .. ':spawn:' .. spawn
  local bytes, sum = weigh(record, events), redis.pcall('GET', P .. ':weight')
  sum = type(sum) == 'string' and count_of(sum)
  if not sum then
    local newest = call('ZREVRANGE', P .. ':ended', 0, 0)[1]
    sum = newest and count_of(call('HGET', P .. ':spawn:' .. newest, 'weighed')) or 0
  end
  sum = int(sum + bytes)
  if not is_error(redis.pcall('SET', P .. ':weight', sum)) then call('HSET', record, 'weight', int(bytes), 'weighed', sum) end
  call('ZADD', P .. ':ended', int(now), spawn)
end

-- A server that ends by a failure this soon after it was ready counts against its node.
local EARLY_END = 10000
local EARLY_REASONS = { ['failed'] = true, ['signaled'] = true, ['liveliness-lost'] = true }

-- Counts an end, and has it count against the node where it came early. ready, ended: when, in ms, or ''; exit: as JSON, as the agent wrote
-- it. Returns whether it came early.
local function tally_end(node, renderer, ready, ended, exit)
  local reason = string.match(exit, '"reason":"([%l-]+)"')
  if reason then tally('e:' .. reason) end
  if not EARLY_REASONS[reason or ''] or not tonumber(ready) then return false end
  local lived = math.max((tonumber(ended) or now) - ready, 0)
  if lived < EARLY_END then ended_early(node, renderer, lived, reason, exit) end
  return lived < EARLY_END
end
