-- Gives up a spawn that may have been started. The agent gets the order with its next heartbeat, also when the registry was
-- wiped since and does not know the node.
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
  -- The node may be gone for good, and then nothing else clears this away.
  call('PEXPIRE', abandoned, int(FORGET))
end
