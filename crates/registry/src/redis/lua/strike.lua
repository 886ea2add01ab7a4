-- Takes a node out of every index, before its kind changes or it is forgotten.
local function strike(node)
  local kind = call('HGET', P .. ':node:' .. node, 'kind')
  if not kind then return end
  local left = 0
  for _, renderer in ipairs(RENDERERS) do
    local tail = kind .. ':' .. renderer
    call('SREM', P .. ':known:' .. tail, node)
    call('SREM', P .. ':members:' .. tail, node)
    call('ZREM', P .. ':open:' .. tail, node)
    recovered(kind, renderer, node)
    left = left + call('SCARD', P .. ':known:' .. tail)
  end
  if left == 0 then
    call('HDEL', P .. ':kinds', kind)
    call('SET', P .. ':kindver', next_seq())
  end
end
