-- Records what an operator wants of a node.
-- ARGV: node, eligibility, drain as JSON or '', data of the event. Returns 1, or 0 when there is no such node.
local node, eligibility, drain, data = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3], ARGV[A + 4]
local key = P .. ':node:' .. node
local old = call('HMGET', key, 'elig', 'drain')
if not old[1] then return 0 end
call('HSET', key, 'elig', eligibility, 'drain', drain)
enrol(node)
if old[1] ~= eligibility or old[2] ~= drain then
  if eligibility == 'eligible' then
    tell(now, 'node.uncordoned', node, '', data)
  elseif eligibility == 'cordoned' then
    tell(now, 'node.cordoned', node, '', data)
  else
    tell(now, 'node.draining', node, '', data)
    if call('HLEN', P .. ':held:' .. node) == 0 then tell(now, 'node.drained', node, '', '{}') end
  end
end
nudge_line()
return done(1)
