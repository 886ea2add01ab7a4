-- Whether agents may not have filled the registry yet: it was wiped or went back to an older state a moment ago.
local function is_fresh()
  local age = now - (tonumber(string.sub(incarnation, 38)) or now)
  return call('SCARD', P .. ':names') == 0 or (age >= 0 and age < 2 * STALE)
end
