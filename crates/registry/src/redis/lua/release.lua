-- Releases a reservation for which nothing was started; not a slot whose spawn the agent has reported (A).
-- ARGV: node, spawn. Returns nothing.
local node, spawn = ARGV[A + 1], ARGV[A + 2]
local hold = call('HGET', P .. ':held:' .. node, spawn)
if hold and string.sub(hold, 1, 1) ~= 'A' then
  call('ZREM', P .. ':expiries', spawn .. node)
  free(node, spawn)
end
return done()
