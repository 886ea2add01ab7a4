-- The failing node whose probe has been due for longest.
local function due_probe()
  local found, since, from
  for _, kind in ipairs(kinds) do
    local probes = P .. ':probes:' .. kind .. ':' .. renderer
    local head = call('ZRANGE', probes, 0, 0, 'WITHSCORES')
    local due = tonumber(head[2])
    if due and due <= now and (not since or due < since) and not (waiting and is_overtaking(kind)) then
      found, since, from = head[1], due, probes
    end
  end
  if not found then return nil end
  local h, used = usable(found, from)
  local health = h and read_health(h[renderer == 'csr' and 8 or 9])
  if health and is_avoided(health) and health.next_probe <= now then return found, h, used, health end
  -- The index is wrong.
  call('ZREM', from, found)
  if h then shelve(found, h, used) end
end
