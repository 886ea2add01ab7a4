-- Gives up a spawn that may have been started; the agent is told with its next heartbeat.
-- ARGV: node, spawn. Returns nothing.
local node, spawn = ARGV[A + 1], ARGV[A + 2]
if call('SISMEMBER', P .. ':names', node) == 0 then return end
local held = P .. ':held:' .. node
local hold = call('HGET', held, spawn)
if hold and string.sub(hold, 1, 1) == 'R' then
  call('HSET', held, spawn, 'X' .. string.sub(hold, 2))
end
call('SADD', P .. ':abandoned:' .. node, spawn)
