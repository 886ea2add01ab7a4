-- Counts something in the minute that it happens in, which is kept for a day and an hour. An agent whose user of Redis is that of the
-- release before this one may not write there: then it is not counted.
local MINUTE_KEPT = 25 * 3600 * 1000
local function tally(field, by)
  local key = P .. ':minute:' .. int(math.floor(now / 60000))
  local count = redis.pcall('HINCRBY', key, field, by or 1)
  if count == (by or 1) then redis.pcall('PEXPIRE', key, MINUTE_KEPT) end
end
