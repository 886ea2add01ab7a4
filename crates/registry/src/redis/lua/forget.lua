-- Removes a node that is not up.
-- ARGV: node, data of the event.
-- Returns how many of its spawns had not ended, -1 when the node is up, or -2 when there is no such node.
local node = ARGV[A + 1]
if call('EXISTS', P .. ':node:' .. node) == 0 then return -2 end
if call('HGET', P .. ':node:' .. node, 'avail') == 'up' then
  if not is_late(node) then return done(-1) end
  call_stale(node)
end
return done(drop_node(node, ARGV[A + 2]))
