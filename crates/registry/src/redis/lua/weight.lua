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
