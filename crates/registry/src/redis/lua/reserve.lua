-- Takes a slot on the best node.
-- ARGV: spawn, renderer, 1 to pack, random number in [0, 1), known version of the kinds, ticket or '', owner or '', the most
--   the owner may have or '', number of nodes to avoid, those nodes, number of suitable kinds, those kinds.
-- Returns {'slot', node, advertise} · {'full'} · {'none', 1 if suitable nodes are known, 1 if the registry is fresh} · {'over'} when the owner has as many
--   as it may have · {'kinds', version, kind, JSON, …} when the caller's picture of the kinds is old and nothing was done.
local spawn, renderer, pack, random = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3] == '1', tonumber(ARGV[A + 4])
local ticket, owner, most = ARGV[A + 6], ARGV[A + 7], tonumber(ARGV[A + 8])
local version = call('GET', P .. ':kindver') or '0'
if version ~= ARGV[A + 5] then
  local answer = { 'kinds', version }
  for _, field in ipairs(call('HGETALL', P .. ':kinds')) do answer[#answer + 1] = field end
  return answer
end
local avoid, kinds = {}, {}
local i = A + 10
for _ = 1, tonumber(ARGV[A + 9]) do
  avoid[#avoid + 1] = ARGV[i]
  i = i + 1
end
for k = i + 1, i + tonumber(ARGV[i]) do kinds[#kinds + 1] = ARGV[k] end

-- Agents and front doors of before owners do not take note when a slot comes back. Before an owner is refused, some of what
-- it has is looked at again.
local function is_over_quota()
  local owned = P .. ':owned:' .. owner
  if call('HLEN', owned) < most then return false end
  local some = call('HRANDFIELD', owned, 16, 'WITHVALUES')
  for s = 1, #some, 2 do
    if call('HEXISTS', P .. ':held:' .. some[s + 1], some[s]) == 0 then call('HDEL', owned, some[s]) end
  end
  return call('HLEN', owned) >= most
end

if owner ~= '' and most and is_over_quota() then
  if ticket ~= '' and leave(ticket) then nudge_line() end
  return done({ 'over' })
end

local number = math.huge
local waiting = call('ZCARD', P .. ':places') > 0
if waiting and ticket ~= '' then
  local kept = call('ZSCORE', P .. ':places', ticket)
  if kept and tonumber(kept) > now then number = tonumber(call('ZSCORE', P .. ':line', ticket)) end
end

-- The number of the first in a queue; drops places that were not kept.
local function first(queue)
  while true do
    local head = call('ZRANGE', queue, 0, 0, 'WITHSCORES')
    if not head[1] then return nil end
    local kept = call('ZSCORE', P .. ':places', head[1])
    if kept and tonumber(kept) > now then return tonumber(head[2]) end
    if not leave(head[1]) then call('ZREM', queue, head[1]) end
  end
end

-- Whether somebody with a lower number waits for a slot that nodes of this kind have.
local function overtaking(kind)
  for _, r in ipairs({ 'csr', 'ssr' }) do
    if call('EXISTS', P .. ':open:' .. kind .. ':' .. r) == 1 then
      local head = first(P .. ':wait:' .. kind .. ':' .. r)
      if head and head < number then return true end
    end
  end
  return false
end

local range = pack and 'ZREVRANGE' or 'ZRANGE'

-- The best level over all suitable kinds, then one of its nodes at random.
local function choose()
  local best, tied, alone = nil, {}, nil
  for _, kind in ipairs(kinds) do
    local open = P .. ':open:' .. kind .. ':' .. renderer
    local top = call(range, open, 0, 1, 'WITHSCORES')
    if top[1] and not (waiting and overtaking(kind)) then
      local load = tonumber(top[2])
      if best == nil or (pack and load > best) or (not pack and load < best) then
        best, tied = load, { open }
        alone = top[4] ~= top[2] and top[1]
      elseif load == best then
        tied[#tied + 1] = open
        alone = nil
      end
    end
  end
  if best == nil then return nil end
  if alone then return alone end
  local counts, total = {}, 0
  for t, open in ipairs(tied) do
    counts[t] = call('ZCOUNT', open, best, best)
    total = total + counts[t]
  end
  local pick = math.floor(random * total)
  for t, open in ipairs(tied) do
    if pick < counts[t] then return call(range, open, pick, pick)[1] end
    pick = pick - counts[t]
  end
end

-- Nodes to avoid step aside for the time of the choice.
local aside = {}
for _, node in ipairs(avoid) do
  local kind = call('HGET', P .. ':node:' .. node, 'kind')
  if kind then
    for _, r in ipairs({ 'csr', 'ssr' }) do
      local open = P .. ':open:' .. kind .. ':' .. r
      local load = call('ZSCORE', open, node)
      if load then
        call('ZREM', open, node)
        aside[#aside + 1] = { open, load, node }
      end
    end
  end
end

local node = choose()
while node do
  local beat = call('ZSCORE', P .. ':up', node)
  if beat and tonumber(beat) > now - STALE then break end
  call_stale(node)
  node = choose()
end
for _, back in ipairs(aside) do call('ZADD', back[1], back[2], back[3]) end

if node then
  local key, held = P .. ':node:' .. node, P .. ':held:' .. node
  local h = call('HMGET', key, 'kind', 'csr', 'ssr', 'slots', 'gpus', 'gused', 'placeable', 'advertise')
  local gpu = renderer == 'ssr' and tonumber(h[5]) >= 0
  call('HSET', held, spawn, (gpu and 'Rg' or 'R-') .. owner)
  own(owner, node, spawn)
  if gpu then h[6] = call('HINCRBY', key, 'gused', 1) end
  call('ZADD', P .. ':expiries', int(now + RESERVATION), spawn .. node)
  shelve(node, h, call('HLEN', held))
  if ticket ~= '' and leave(ticket) then nudge_line() end
  return done({ 'slot', node, h[8] })
end

-- Whether there is nobody, or only nobody free, depends on who is still there.
expire_beats(256)
if ticket ~= '' and #kinds > 0 then
  local at = call('ZSCORE', P .. ':line', ticket)
  if not at then
    at = call('INCR', P .. ':lineno')
    call('ZADD', P .. ':line', at, ticket)
  end
  call('ZADD', P .. ':places', int(now + PLACE), ticket)
  for _, kind in ipairs(kinds) do
    local queue = P .. ':wait:' .. kind .. ':' .. renderer
    call('ZADD', queue, at, ticket)
    call('SADD', P .. ':queues:' .. ticket, queue)
  end
end

local known = 0
for _, kind in ipairs(kinds) do
  local tail = kind .. ':' .. renderer
  if call('SCARD', P .. ':members:' .. tail) > 0 then return done({ 'full' }) end
  if call('SCARD', P .. ':known:' .. tail) > 0 then known = 1 end
end
return done({ 'none', known, is_fresh() and 1 or 0 })
