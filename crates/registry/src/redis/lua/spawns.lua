-- Spawn records.

-- Marks a spawn as ended that its agent no longer has and never reported as ended.
local function end_unseen(node, spawn)
  local was = call('HMGET', P .. ':spawn:' .. spawn, 'state', 'events')
  if not was[1] or was[1] == 'exited' then return end
  call('ZADD', P .. ':ended', int(now), spawn)
  tell_spawn(now, 'spawn.exited', node, spawn, '{"exit":{"reason":"node-lost"}}', was[2],
    'state', 'exited', 'ended', int(now), 'exit', '{"reason":"node-lost"}')
end
