-- Spawn records.

-- Marks a spawn as ended that its agent no longer has and never reported as ended.
local function end_unseen(node, spawn)
  local key = P .. ':spawn:' .. spawn
  local state = call('HGET', key, 'state')
  if not state or state == 'exited' then return end
  call('HSET', key, 'state', 'exited', 'ended', int(now), 'exit', '{"reason":"node-lost"}')
  call('ZADD', P .. ':ended', int(now), spawn)
  tell(now, 'spawn.exited', node, spawn, '{"exit":{"reason":"node-lost"}}')
end
