-- Sequence numbers and events.

-- Sequence numbers rise with every event and, being taken from the clock, go on rising after a wipe. Streams refuse a
-- number that is not higher than their last one, so a lost seq is found again in them. Returns the next one as text: to write a number
-- costs as much as a command.
local function next_seq()
  if not last_seq then
    last_seq = count_of(call('GET', P .. ':seq')) or mend_streams('last number')
    if not last_seq or not is_sound(last_seq) then
      mend_streams('begin anew')
      last_seq = 0
    end
  end
  last_seq = math.max(last_seq + 1, now_us)
  seq_text = int(last_seq)
  return seq_text
end

-- Whether this answer means that a stream takes no further number, or is no stream.
local function is_damage(answer)
  local why = type(answer) == 'table' and answer.err or ''
  return string.find(why, 'equal or smaller', 1, true) or string.find(why, 'exhausted', 1, true)
    or string.find(why, 'WRONGTYPE', 1, true)
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
  if type(length) == 'table' and is_damage(length) then
    mend_streams('begin anew')
    length = 0
  end
  if length == 0 then
    call('SET', P .. ':floor', next_seq())
  elseif length > EVENTS_COUNT + EVENTS_COUNT / 64 then
    call('XTRIM', EVENTS, 'MAXLEN', EVENTS_COUNT)
    mend_streams('set floor')
  end
  has_published = true
end

-- Adds an entry to the events. Redis refuses it when seq was lost and the stream has a higher entry; then it goes on from
-- there.
local function add_event(...)
  if not has_published then trim() end
  local seq = next_seq()
  local added = redis.pcall('XADD', EVENTS, seq .. '-0', ...)
  if type(added) ~= 'table' then return seq end
  if is_damage(added) then
    mend_streams('recover', EVENTS, last_seq)
    if not has_published then trim() end
    seq = next_seq()
  end
  -- Any other error is raised by this second try.
  call('XADD', EVENTS, seq .. '-0', ...)
  return seq
end

-- Publishes an event. at: when it was, as text.
local function publish_at(at, kind, node, spawn, data)
  if READ_AS[kind] then
    return add_event('k', READ_AS[kind], 'x', kind, 't', at, 'n', node, 's', spawn, 'd', data)
  end
  return add_event('k', kind, 't', at, 'n', node, 's', spawn, 'd', data)
end

local function publish(at, ...) return publish_at(int(at), ...) end

-- Publishes an event of a spawn and writes fields of its record. A record keeps its first hundred events. Returns the seq.
local function publish_spawn(at, kind, node, spawn, data, events, ...)
  at = int(at)
  local seq = publish_at(at, kind, node, spawn, data)
  if READ_AS[kind] then
    data = '{"x":"' .. kind .. '"' .. (data == '{}' and '}' or ',' .. string.sub(data, 2))
    kind = READ_AS[kind]
  end
  local record, count = P .. ':spawn:' .. spawn, (tonumber(events) or 0) + 1
  if count <= 100 then
    call('HSET', record, 'events', count, 'e' .. count,
      seq .. '|' .. at .. '|' .. kind .. '|' .. node .. '|' .. data, ...)
  else
    call('HSET', record, ...)
  end
  return seq
end
