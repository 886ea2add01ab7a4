-- What is done where the streams of events and wake-ups, or the number of the last entry, are lost or damaged.

-- The number of a stream's last entry.
local function last_of(stream)
  local last = call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

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

-- After a stream has refused a number: goes on after its last one, or begins anew where that does not explain it.
local function recover(stream, refused)
  local ok, last = pcall(last_of, stream)
  if ok and last >= refused and is_sound(last) then last_seq = last else begin_anew() end
end

-- What the functions of events.lua need of these, by name.
local function mend_streams(what, ...)
  if what == 'begin anew' then return begin_anew() end
  if what == 'last number' then return last_sound() end
  if what == 'recover' then return recover(...) end
  return set_floor()
end
