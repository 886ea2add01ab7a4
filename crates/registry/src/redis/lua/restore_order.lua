-- Repeats an operator's order that the registry may have lost.
-- ARGV: node, eligibility, drain as JSON or '', the order's number, data of the event.
-- Returns 1, 0 when there is no such node or its order has this number or a higher one, or -1 when it was for a node that an
--   operator has had forgotten since.
local node, eligibility, drain, generation = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3], tonumber(ARGV[A + 4])
local key = P .. ':node:' .. node
local forgotten = tonumber(call('GET', P .. ':forgotten:' .. node))
if forgotten and generation <= forgotten then return -1 end
if call('EXISTS', key) == 0 then return 0 end
local old = call('HMGET', key, 'elig', 'drain', 'avail', 'gen')
if generation <= (count_of(old[4]) or 0) then return 0 end
set_order(node, old, eligibility, drain, generation, ARGV[A + 5])
return done(1)
