-- Scripts of releases without owners give slots back without noting it here. Before an owner is refused, some of its
-- entries are checked.
local function is_over_quota()
  local owned = P .. ':owned:' .. owner
  if call('HLEN', owned) < most then return false end
  local some = call('HRANDFIELD', owned, 16, 'WITHVALUES')
  for s = 1, #some, 2 do
    if call('HEXISTS', P .. ':held:' .. some[s + 1], some[s]) == 0 then call('HDEL', owned, some[s]) end
  end
  return call('HLEN', owned) >= most
end
