-- What changes where a node stands, or whether it does: its health, eligibility, availability and kind.

-- A node is not failing or on probation for a renderer any more.
local function recovered(kind, renderer, node)
  call('ZREM', P .. ':failing:' .. kind .. ':' .. renderer, node)
  call('ZREM', P .. ':probes:' .. kind .. ':' .. renderer, node)
  call('ZREM', P .. ':sick', renderer .. ' ' .. node)
end

-- Brings the indexes up to date after a change of eligibility or availability.
local function enrol(node)
  local key = P .. ':node:' .. node
  local h = call('HMGET', key, 'kind', 'csr', 'ssr', 'elig', 'avail', 'hcsr', 'hssr')
  if not h[1] then return end
  local placeable = h[4] == 'eligible' and h[5] == 'up'
  call('HSET', key, 'placeable', placeable and '1' or '0')
  for i, renderer in ipairs(RENDERERS) do
    if h[i + 1] == '1' then
      local members = P .. ':members:' .. h[1] .. ':' .. renderer
      call('SADD', P .. ':known:' .. h[1] .. ':' .. renderer, node)
      if placeable then call('SADD', members, node) else call('SREM', members, node) end
      -- Left over from when the node was failing, if its record was lost since.
      local tail = h[1] .. ':' .. renderer
      if not (h[i + 5] and is_avoided(read_health(h[i + 5])))
        and call('EXISTS', P .. ':sick', P .. ':failing:' .. tail, P .. ':probes:' .. tail) > 0
      then
        recovered(h[1], renderer, node)
      end
    end
  end
  place(node)
end
