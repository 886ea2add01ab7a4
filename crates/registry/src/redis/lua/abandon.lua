-- Gives up a spawn that may have been started; the agent is told with its next heartbeat, also when the node is not known
-- because the registry was wiped since.
-- ARGV: node, spawn. Returns nothing.
local node, spawn = ARGV[A + 1], ARGV[A + 2]
local held, abandoned = P .. ':held:' .. node, P .. ':abandoned:' .. node
local hold = call('HGET', held, spawn)
if hold and string.sub(hold, 1, 1) == 'R' then
  call('HSET', held, spawn, 'X' .. string.sub(hold, 2))
end
call('SADD', abandoned, spawn)
if call('SISMEMBER', P .. ':names', node) == 1 then
  call('PERSIST', abandoned)
else
  -- It may be gone for good, and then nobody else clears this away.
  call('PEXPIRE', abandoned, int(FORGET))
end
