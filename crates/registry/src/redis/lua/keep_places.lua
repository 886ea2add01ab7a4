-- Keeps places in line for a while longer.
-- ARGV: tickets. Returns nothing.
for i = A + 1, #ARGV do
  call('ZADD', P .. ':places', 'XX', int(now + PLACE), ARGV[i])
end
