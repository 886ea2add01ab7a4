-- Wakes the callers in line, if there are any: they ask again.
local function wake_line()
  if call('ZCARD', P .. ':places') > 0 then wake() end
end
