-- The registry's identity. Scripts that find a node up do without: a registry that has one has an identity.

-- The first script that runs on an empty registry gives it its identity.
incarnation = call('GET', P .. ':incarnation')
if not incarnation then
  incarnation = ARGV[10] .. ' ' .. int(now)
  call('SET', P .. ':incarnation', incarnation)
end
