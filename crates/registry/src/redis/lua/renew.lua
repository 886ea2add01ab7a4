-- Gives a registry that was set back to an older state a new identity, unless another follower has done so already.
-- ARGV: the known identity. Returns the registry's.
repair_streams()
if string.sub(incarnation, 1, 36) == ARGV[A + 1] then
  incarnation = ARGV[10] .. ' ' .. int(now)
  call('SET', P .. ':incarnation', incarnation)
end
return string.sub(incarnation, 1, 36)
