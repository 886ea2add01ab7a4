-- Spawn records and their indexes.

-- The exit of a spawn whose node was given up, or whose agent does not know it.
local UNSEEN = '{"reason":"node-lost"}'

-- What a record and its places in the indexes take of Redis beside the text, in bytes: for the record, and for each of its fields.
-- docs/operator/sizing.md says how it was measured.
local RECORD_BYTES, FIELD_BYTES = 1250, 40

-- Notes that a spawn has ended. `weight` is the sum of the bytes of all records that have ever ended, and each record has the sum as of
-- its end (weighed): the difference is what has ended since, so that no deletion has to be subtracted, and nothing drifts. A lost
-- sum goes on from the newest record. Agents whose user of Redis is that of the release before this one cannot write it: then the count
-- of records is their only bound.
local function note_ended(spawn)
  local record, bytes = P .. ':spawn:' .. spawn, RECORD_BYTES
  local flat = call('HGETALL', record)
  for f = 1, #flat, 2 do bytes = bytes + FIELD_BYTES + #flat[f] + #flat[f + 1] end
  local sum = redis.pcall('GET', P .. ':weight')
  sum = type(sum) == 'string' and count_of(sum)
  if not sum then
    local newest = call('ZREVRANGE', P .. ':ended', 0, 0)[1]
    sum = newest and count_of(call('HGET', P .. ':spawn:' .. newest, 'weighed')) or 0
  end
  if not is_error(redis.pcall('SET', P .. ':weight', int(sum + bytes))) then
    call('HSET', record, 'weight', int(bytes), 'weighed', int(sum + bytes))
  end
  call('ZADD', P .. ':ended', int(now), spawn)
end

-- Counts an end. exit: as JSON, as the agent wrote it.
local function tally_end(exit)
  local reason = string.match(exit, '"reason":"([%l-]+)"')
  if reason then tally('e:' .. reason) end
end

-- Marks a spawn as ended that its agent no longer has and never reported as ended. Returns whether it had not ended before.
local function end_unseen(node, spawn)
  local was = call('HMGET', P .. ':spawn:' .. spawn, 'state', 'events')
  if not was[1] or was[1] == 'exited' then return false end
  publish_spawn(now, 'spawn.exited', node, spawn, '{"exit":' .. UNSEEN .. '}', was[2],
    'state', 'exited', 'ended', int(now), 'exit', UNSEEN)
  note_ended(spawn)
  tally('e:node-lost')
  return true
end

-- Drops a node, its slots and its indexes, and ends its spawns. data: of the event. Returns how many spawns had not ended.
local function drop_node(node, data)
  local held, ended = call('HGETALL', P .. ':held:' .. node), 0
  strike(node)
  for _, index in ipairs({ ':up', ':stale', ':down' }) do call('ZREM', P .. index, node) end
  call('SREM', P .. ':names', node)
  call('DEL', P .. ':node:' .. node, P .. ':held:' .. node, P .. ':abandoned:' .. node, P .. ':expired:' .. node)
  for h = 1, #held, 2 do
    disown(held[h + 1], held[h])
    if end_unseen(node, held[h]) then ended = ended + 1 end
  end
  publish(now, 'node.forgotten', node, '', data)
  return ended
end

-- The indexes of all spawns, of a node's and of an owner's are in the order of first events. Returns how many lacked it.
local function index_spawn(node, spawn, owner, seq)
  local lacked = call('ZADD', P .. ':spawns', 'NX', seq, spawn) + call('ZADD', P .. ':spawns:' .. node, 'NX', seq, spawn)
  if owner ~= '' then lacked = lacked + call('ZADD', P .. ':spawns-of:' .. owner, 'NX', seq, spawn) end
  return lacked
end

-- Checks some ended spawns at random, and many when an index has lost one. No heartbeat lists them, so nothing else repairs
-- them. Returns whether it had.
local function repair_ended()
  local function look(count)
    local lacked = 0
    for _, spawn in ipairs(call('ZRANDMEMBER', P .. ':ended', count)) do
      local of = call('HMGET', P .. ':spawn:' .. spawn, 'node', 'owner', 'e1')
      local seq = of[3] and string.match(of[3], '^%d+')
      if of[1] and seq then lacked = lacked + index_spawn(of[1], spawn, of[2] or '', seq) end
    end
    return lacked
  end
  return look(8) > 0 and look(200) > 0
end

local function own_all(owner, node, spawns)
  for from = 1, #spawns, 1000 do
    local pairs_of = {}
    for n = from, math.min(from + 999, #spawns) do
      pairs_of[#pairs_of + 1] = spawns[n]
      pairs_of[#pairs_of + 1] = node
    end
    call('HSET', P .. ':owned:' .. owner, unpack(pairs_of))
  end
end

-- Puts living spawns of a node back into every index that has lost them. owners: spawn -> owner, or ''.
local function repair_indexes(node, owners)
  local by_owner, all = {}, {}
  for spawn, owner in pairs(owners) do
    all[#all + 1] = spawn
    if owner ~= '' then
      by_owner[owner] = by_owner[owner] or {}
      table.insert(by_owner[owner], spawn)
    end
  end
  local lost = {}
  local function look(index, spawns)
    -- Lua takes no more than some thousands of arguments.
    for from = 1, #spawns, 1000 do
      local to = math.min(from + 999, #spawns)
      for n, score in ipairs(call('ZMSCORE', index, unpack(spawns, from, to))) do
        if not score then lost[spawns[from + n - 1]] = true end
      end
    end
  end
  look(P .. ':spawns', all)
  look(P .. ':spawns:' .. node, all)
  for owner, spawns in pairs(by_owner) do
    look(P .. ':spawns-of:' .. owner, spawns)
    own_all(owner, node, spawns)
  end
  for spawn in pairs(lost) do
    local first = call('HGET', P .. ':spawn:' .. spawn, 'e1')
    index_spawn(node, spawn, owners[spawn], first and string.match(first, '^%d+') or int(next_seq()))
  end
end

-- Repairs the fields in which the record of a listed spawn differs from what its agent reports. No event, as nothing happened.
local function repair_record(id, record, had, owner, endpoint, renderer, started, gpu, labels)
  local from = tonumber(had[9] or '')
  -- Ages are rounded.
  local is_started = started == '' or (from and math.abs(from - started) < 5000)
  if not count_of(had[4]) then
    -- Events count from where the record's history ends.
    local count = 0
    while call('HEXISTS', record, 'e' .. (count + 1)) == 1 do count = count + 1 end
    call('HSET', record, 'events', count)
  end
  if had[5] == owner and had[7] == endpoint and had[8] == renderer and had[15] == gpu and had[16] == labels and is_started then return end
  call('HSET', record, 'owner', owner, 'endpoint', endpoint, 'renderer', renderer, 'gpu', gpu, 'labels', labels)
  if (had[5] or '') ~= '' and had[5] ~= owner then call('ZREM', P .. ':spawns-of:' .. had[5], id) end
  if not is_started then call('HSET', record, 'started', started) end
end
