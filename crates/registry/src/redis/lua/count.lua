-- ## count
-- Adds what only a front door knows to the counts of this minute. Not idempotent.
-- ARGV: used and total slots, or '' twice; then codes of refusals and how many. Returns nothing.
local used, total = ARGV[A + 1], ARGV[A + 2]
local key, has_counted = P .. ':minute:' .. int(math.floor(now / 60000)), false

-- Damage counts as nothing. A full registry refuses the first of these, and with it the call: the front door reports again.
local function count(command, field, ...)
  local answer = redis.pcall(command, key, field, ...)
  if is_damage(answer) then
    call('DEL', key)
  elseif is_error(answer) and not string.find(answer.err, 'OOM', 1, true) then
    call('HDEL', key, field)
  end
  if is_error(answer) then call(command, key, field, ...) end
  has_counted = true
end

for i = A + 3, #ARGV, 2 do count('HINCRBY', 'r:' .. ARGV[i], ARGV[i + 1]) end
if used ~= '' then count('HSET', 'used', used, 'total', total) end
if has_counted then call('PEXPIRE', key, MINUTE_KEPT) end
