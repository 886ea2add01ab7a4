-- Releases a reservation by its spawn, on any node, after a reserve whose answer was lost; not a slot whose spawn the agent
-- has reported (A). Only reservations that are not confirmed yet have an expiry, so there are few to look through: the
-- newest ones. An older one expires.
-- ARGV: spawn. Returns nothing.
local MAX_LOOKS = 4096
local spawn = ARGV[A + 1]
for _, member in ipairs(call('ZREVRANGE', P .. ':expiries', 0, MAX_LOOKS - 1)) do
  if string.sub(member, 1, #spawn) == spawn then
    local node = string.sub(member, #spawn + 1)
    local hold = call('HGET', P .. ':held:' .. node, spawn)
    if hold and string.sub(hold, 1, 1) ~= 'A' then
      call('ZREM', P .. ':expiries', member)
      free(node, spawn)
    end
  end
end
return done()
