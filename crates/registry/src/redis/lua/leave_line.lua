-- Gives up places in line.
-- ARGV: tickets. Returns nothing.
local left = false
for i = A + 1, #ARGV do
  left = leave(ARGV[i]) or left
end
if left then wake_line() end
return done()
