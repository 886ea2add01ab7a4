-- ## count
-- Adds what only a front door knows to the counts of this minute.
-- ARGV: used and total slots, or '' twice; then codes of refusals and how many. Returns nothing.
local used, total = ARGV[A + 1], ARGV[A + 2]
for i = A + 3, #ARGV, 2 do tally('r:' .. ARGV[i], tonumber(ARGV[i + 1])) end
if used ~= '' then
  local key = P .. ':minute:' .. int(math.floor(now / 60000))
  if not is_error(redis.pcall('HSET', key, 'used', used, 'total', total)) then call('PEXPIRE', key, MINUTE_KEPT) end
end
