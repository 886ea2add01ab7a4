-- What is before the first event cannot be read any more.
local function set_floor()
  local first = call('XRANGE', EVENTS, '-', '+', 'COUNT', 1)[1]
  if not first then return end
  local floor = int(string.match(first[1], '^%d+') - 1)
  if call('GET', P .. ':floor') ~= floor then call('SET', P .. ':floor', floor) end
end
