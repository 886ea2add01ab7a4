-- Removes a node that is not up.
-- ARGV: node, data of the event.
-- Returns how many of its spawns had not ended, -1 when the node is up, or -2 when there is no such node.
local node = ARGV[A + 1]
if call('EXISTS', P .. ':node:' .. node) == 0 then return -2 end
if call('HGET', P .. ':node:' .. node, 'avail') == 'up' then
  if not is_late(node) then return done(-1) end
  call_stale(node)
end
-- Orders up to now are not for the next node of this name. New ones are numbered by the clock at least: see set_eligibility.lua.
local last = math.max(count_of(call('HGET', P .. ':node:' .. node, 'gen')) or 0, now)
call('SET', P .. ':forgotten:' .. node, int(last), 'PX', int(FORGET))
return done(drop_node(node, ARGV[A + 2]))
