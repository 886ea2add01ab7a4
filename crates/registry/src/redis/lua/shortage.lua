-- Whether keys are lost that only heartbeats bring back: then the answer "no such node" may be wrong. Looks at some nodes.
local function is_damaged()
  if call('EXISTS', P .. ':kinds', P .. ':kindver') < 2 then return true end
  if call('SCARD', P .. ':names') < call('ZCARD', P .. ':up') then return true end
  for _, some in ipairs(call('SRANDMEMBER', P .. ':names', 8)) do
    local h = call('HMGET', P .. ':node:' .. some, 'kind', 'csr', 'ssr', 'placeable')
    if not h[1] or call('HEXISTS', P .. ':kinds', h[1]) == 0 then return true end
    for r, offered in ipairs(RENDERERS) do
      local tail = h[1] .. ':' .. offered
      if h[r + 1] == '1' then
        if call('SISMEMBER', P .. ':known:' .. tail, some) == 0 then return true end
        if h[4] == '1' and call('SISMEMBER', P .. ':members:' .. tail, some) == 0 then return true end
      end
    end
  end
  return false
end

-- What is short when no node was chosen: {'full'}, or {'none', 1 if suitable nodes are known, 1 if the registry is fresh or has
-- lost keys}. The answer depends on which nodes are up, so late ones are called stale before this is asked.
local function shortage()
  local known = 0
  for _, kind in ipairs(kinds) do
    local tail = kind .. ':' .. renderer
    if call('SCARD', P .. ':members:' .. tail) > 0 then return { 'full' } end
    if call('SCARD', P .. ':known:' .. tail) > 0 then known = 1 end
  end
  return { 'none', known, (is_fresh() or is_damaged()) and 1 or 0 }
end
