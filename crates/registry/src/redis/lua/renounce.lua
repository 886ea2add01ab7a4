-- Gives back the slot that a reserve took whose answer was lost, wherever it is; not one whose spawn the agent has reported.
-- Only reservations that nobody confirmed yet have an expiry, so there are few to look through.
-- ARGV: spawn. Returns nothing.
local spawn = ARGV[A + 1]
for _, member in ipairs(call('ZRANGE', P .. ':expiries', 0, -1)) do
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
