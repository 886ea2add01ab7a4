-- Renews places in line. One that has been dropped is not brought back (XX).
-- ARGV: tickets. Returns nothing.
for i = A + 1, #ARGV do
  call('ZADD', P .. ':places', 'XX', int(now + PLACE), ARGV[i])
end
