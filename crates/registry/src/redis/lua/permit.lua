-- Asks whether an owner may start one more spawn now, and counts the start if so: the generic cell rate algorithm (ITU-T
-- I.371), with a minute's worth at once. permit:<owner> is when the last start would have been due, had all come evenly, in
-- microseconds.
-- ARGV: owner, starts a minute. Returns how long to wait in microseconds, 0 when it may.
local MINUTE = 60000000
local key, rate = P .. ':permit:' .. ARGV[A + 1], tonumber(ARGV[A + 2])
if rate == 0 then return MINUTE end
local due = math.max(tonumber(call('GET', key)) or 0, now_us)
-- An owner runs ahead by a minute at the most. A moment further ahead comes from a clock that was set back since.
if due > now_us + MINUTE then due = now_us end
local next = due + MINUTE / rate
if next > now_us + MINUTE then return math.ceil(next - now_us - MINUTE) end
call('SET', key, int(math.floor(next)), 'PX', int(math.ceil((next - now_us) / 1000)))
return 0
