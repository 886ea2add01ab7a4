-- What a report changes of one spawn. The script before it has read the node's record (node, key, held, kind), and says what it is about:
-- holds is a copy of held:<n> while a list is compared with it, full whether that is a full check, and pings takes those that were not known.

-- An age in ms as a point in time.
local function since(age) return age ~= '' and int(now - age) or '' end

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
-- a: where its fields stand in ARGV; at: when it was; listed: whether it stands in a heartbeat's list.
local function apply(a, at, listed)
  local id, state, renderer, endpoint, gpu, labels, tags, origin, says, started = unpack(ARGV, a, a + 9)
  local ready, ping, ended = since(ARGV[a + 10]), since(ARGV[a + 11]), since(ARGV[a + 12])
  local connected, disconnected = since(ARGV[a + 13]), since(ARGV[a + 14])
  local life_left, exit, server, data = unpack(ARGV, a + 15, a + 18)
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
  local hold
  if holds then hold = holds[id] elseif looks then hold = call('HGET', held, id) end
  -- The reservation names the owner. An agent that has adopted the spawn may not know it.
  local owner = hold and #hold > 2 and string.sub(hold, 3) or (had[5] and had[5] ~= '' and had[5]) or says
  -- A full check believes an agent that knows the owner before the registry's own keys, which may be damaged.
  if full and listed and says ~= '' then owner = says end
  -- The slot is the agent's from the first report on. Heartbeats check it again.
  if state ~= 'exited' and looks then
    local want = (gpu ~= '' and 'Ag' or 'A-') .. owner
    if hold ~= want then
      call('HSET', held, id, want)
      if hold and string.sub(hold, 3) ~= owner then disown(hold, id) end
      own(owner, node, id)
      if holds then holds[id] = want end
      local before = hold and string.sub(hold, 2, 2) == 'g' and 1 or 0
      local after = gpu ~= '' and 1 or 0
      if before ~= after then call('HINCRBY', key, 'gused', after - before) end
      slots_changed = slots_changed or not hold or before ~= after
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
  -- What becomes of the record. An empty field is as good as none, and a record has few others in its first moments.
  local event, news = 'spawn.' .. state, { 'state', state }
  local function note(field, was, is)
    if is ~= (was or '') then news[#news + 1], news[#news + 2] = field, is end
  end
  -- It may have had to take another port before it was ready.
  note('endpoint', had[7], endpoint)
  if (had[3] or '') == '' then note('ready', had[3], ready) end
  -- An agent that has just adopted the spawn has no ping of it yet.
  if ping ~= '' then note('ping', had[2], ping) end
  note('exit', had[6], exit)
  if ended ~= '' or (had[6] or '') ~= '' or had[1] == 'lost' then news[#news + 1], news[#news + 2] = 'ended', ended end
  note('connected', had[10], connected)
  note('disconnected', had[11], disconnected)
  note('expires', had[12], expires)
  note('tags', had[13] or '{}', tags)
  note('origin', had[14], origin)
  note('server', had[17], server)
  local events = (tonumber(had[4] or '') or 0) + 1
  if had[1] and had[1] ~= 'exited' then
    -- It counts again.
    if had[1] == 'lost' and state ~= 'exited' then own(had[5] or '', node, id) end
    if (had[3] or '') == '' and ready ~= '' then tally('ready') end
    publish_spawn(at, event, node, id, data, had[4], unpack(news))
    if came then
      publish_spawn(at, 'spawn.connected', node, id, '{}', events, 'connected', connected)
      events = events + 1
    end
  else
    if state == 'launching' then
      if owner ~= says then data = '{"owner":' .. cjson.encode(owner) .. ',' .. string.sub(data, 2) end
    elseif state ~= 'exited' then
      data = introduced(data, state, renderer, endpoint, gpu, labels, tags, owner, started, ready, connected,
        disconnected, server)
    end
    note('owner', had[5], owner)
    local seq = publish_spawn(at, event, node, id, data, had[4], 'node', node, 'renderer', renderer, 'started', since(started), 'gpu', gpu,
      'labels', labels, 'pool', string.match(kind, '^[^|]*'), unpack(news))
    call('ZREM', P .. ':ended', id)
    index_spawn(node, id, owner, seq)
    -- What only a list brings is no news: a registry that was wiped is being filled again.
    if not had[1] and not listed then
      tally('started')
      if ready ~= '' then tally('ready') end
    end
  end
  if state == 'exited' then
    note_ended(id, events)
    freed = let_go(node, id) or freed
    if holds then holds[id] = nil end
    has_judged = tally_end(node, renderer, had[3] or '', ended, exit) or has_judged
  end
  return id, owner
end
