-- Takes a slot on the node that was chosen, or puts the caller into the line.
-- ARGV: see choice.lua.
-- Returns {'slot', node, advertise, 'good' | 'watched' | 'probe' | 'last', number in line or '', how long its
--   server must live before it is a success, in ms} · {'full'} ·
--   {'none', 1 if suitable nodes are known, 1 if the registry is fresh or has lost keys} · and what choice.lua returns.
if node then
  if probed then
    -- No other probe starts before the outcome of this one is known.
    probed.next_probe = now + RESERVATION
    local text = write_health(probed)
    call('HSET', P .. ':node:' .. node, 'h' .. renderer, text)
    h[renderer == 'csr' and 8 or 9] = text
  end
  local gpu = renderer == 'ssr' and tonumber(h[5]) >= 0
  call('HSET', P .. ':held:' .. node, spawn, (gpu and 'Rg' or 'R-') .. owner)
  own(owner, node, spawn)
  if gpu then
    h[6] = tonumber(h[6]) + 1
    call('HSET', P .. ':node:' .. node, 'gused', h[6])
  end
  call('ZADD', P .. ':expiries', int(now + RESERVATION), spawn .. node)
  shelve(node, h, used + 1)
  if ticket ~= '' and leave(ticket) then wake_line() end
  local health = h[renderer == 'csr' and 8 or 9]
  if standing == 'good' and (health and read_health(health) or learns and call('EXISTS', P .. ':cause') == 1)
  then
    standing = 'watched'
  end
  return done({ 'slot', node, h[10], standing, number < math.huge and int(number) or '', probed and int(probed.hold) or '0' })
end

-- The next number in line. The last one may have been lost.
local function next_number()
  local last = tonumber(call('GET', P .. ':lineno'))
  if not last then last = tonumber(call('ZREVRANGE', P .. ':line', 0, 0, 'WITHSCORES')[2]) or 0 end
  call('SET', P .. ':lineno', int(last + 1))
  return int(last + 1)
end

-- Late nodes are called stale first: the answer depends on which nodes are up.
expire_some()
if ticket ~= '' and #kinds > 0 then
  local at = call('ZSCORE', P .. ':line', ticket)
  if not at then
    at = again and int(again) or next_number()
    if again and again > (tonumber(call('GET', P .. ':lineno')) or 0) then call('SET', P .. ':lineno', at) end
    call('ZADD', P .. ':line', at, ticket)
  end
  call('ZADD', P .. ':places', int(now + PLACE), ticket)
  -- Every waiter asks again much sooner than this lapses.
  local waiter = P .. ':waiter:' .. ticket
  local since = string.match(call('GET', waiter) or '', '^%d+') or int(now)
  call('SET', waiter, since .. ' ' .. ARGV[A + 11], 'PX', int(12 * PLACE))
  for _, kind in ipairs(kinds) do
    local queue = P .. ':wait:' .. kind .. ':' .. renderer
    call('ZADD', queue, at, ticket)
    call('SADD', P .. ':queues:' .. ticket, queue)
  end
  if #avoid > 0 then
    call('HSET', P .. ':avoids', ticket, table.concat(avoid, ' '))
  else
    call('HDEL', P .. ':avoids', ticket)
  end
end
return done(shortage())
