-- Takes or keeps the delivery of events to a webhook, or gives it back, and moves its cursor.
-- ARGV: webhook, holder, lease in ms or '' to give it back, cursor "<seq> <incarnation>" or '' to leave it where it is.
-- Returns {1 when it is the holder's, else 0; the cursor or ''; the time in ms}.
local key = P .. ':delivery:' .. ARGV[A + 1]
local holder, lease, cursor = ARGV[A + 2], tonumber(ARGV[A + 3]), ARGV[A + 4]
local MONTH = 30 * 24 * 3600 * 1000
local old = call('HMGET', key, 'holder', 'until', 'cursor')
local ends = count_of(old[2]) or 0
-- A lease that ends later than one that is taken now was made before the clock was set back.
local free = not old[1] or old[1] == holder or ends <= now or ends > now + (lease or 0) and lease ~= nil
if free then
  if lease then
    call('HSET', key, 'holder', holder, 'until', int(now + lease))
  else
    call('HDEL', key, 'holder', 'until')
  end
  if cursor ~= '' then call('HSET', key, 'cursor', cursor) end
  call('PEXPIRE', key, MONTH)
end
local at = cursor
if not free or cursor == '' then at = old[3] or '' end
return done({ free and 1 or 0, at, now })
