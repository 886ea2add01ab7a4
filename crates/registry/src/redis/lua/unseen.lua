-- Spawns that ended without a word of their agent, and nodes that are dropped with all that was on them.

-- Marks a spawn as ended that its agent no longer has and never reported as ended. Returns whether it had not ended before.
local function end_unseen(node, spawn)
  local record = P .. ':spawn:' .. spawn
  local was = call('HMGET', record, 'state', 'events')
  if not was[1] or was[1] == 'exited' then return false end
  publish_spawn(now, 'spawn.exited', node, spawn, '{"exit":' .. UNSEEN .. '}', was[2],
    'state', 'exited', 'ended', int(now), 'exit', UNSEEN)
  note_ended(spawn, (tonumber(was[2]) or 0) + 1)
  tally('e:node-lost')
  return true
end

-- Drops a node, its slots and its indexes, and ends its spawns. data: of the event. Returns how many spawns had not ended.
local function drop_node(node, data)
  local held, ended = call('HGETALL', P .. ':held:' .. node), 0
  strike(node)
  for _, index in ipairs({ ':up', ':stale', ':down' }) do call('ZREM', P .. index, node) end
  call('SREM', P .. ':names', node)
  call('DEL', P .. ':node:' .. node, P .. ':held:' .. node, P .. ':abandoned:' .. node, P .. ':expired:' .. node)
  for h = 1, #held, 2 do
    disown(held[h + 1], held[h])
    if end_unseen(node, held[h]) then ended = ended + 1 end
  end
  publish(now, 'node.forgotten', node, '', data)
  return ended
end
