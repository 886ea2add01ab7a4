-- Records what an operator wants of a node.
-- ARGV: node, eligibility, drain as JSON or '', data of the event. Returns the order's number, or 0 when there is no such node.
local node, eligibility, drain, data = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3], ARGV[A + 4]
local key = P .. ':node:' .. node
if call('EXISTS', key) == 0 then return 0 end
local old = call('HMGET', key, 'elig', 'drain', 'avail', 'gen')
-- Higher than any that was given before, also by a registry that was wiped since, or to a node that was forgotten.
local forgotten = tonumber(call('GET', P .. ':forgotten:' .. node)) or 0
local generation = math.max((count_of(old[4]) or 0) + 1, now, forgotten + 1)
set_order(node, old, eligibility, drain, generation, data)
return done(generation)
