-- The choice of a node: the least loaded of the healthy ones; now and then a failing one whose probe is due; a failing one
-- otherwise only when no healthy one has room. `reserve` takes the slot, and `forecast` says only what it would be.
-- ARGV: spawn, renderer, 1 to pack, random number in [0, 1), known version of the kinds, ticket or '', owner or '', the most
--   the owner may have or '', number that the ticket had in line or '', 1 when the request has tried a failing node, JSON of who
--   waits for what or '', number of nodes to avoid, those nodes, number of suitable kinds, those kinds.
-- Returns from the script {'over'} when the owner has as many as it may have, and {'kinds', version, kind, JSON, …} when the
--   caller's copy of the kinds is old: then nothing was done.
local spawn, renderer, pack, random = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3] == '1', tonumber(ARGV[A + 4])
local ticket, owner, most, again = ARGV[A + 6], ARGV[A + 7], tonumber(ARGV[A + 8]), tonumber(ARGV[A + 9])
local version = call('GET', P .. ':kindver') or '0'
if version ~= ARGV[A + 5] then
  local answer = { 'kinds', version }
  for _, field in ipairs(call('HGETALL', P .. ':kinds')) do answer[#answer + 1] = field end
  return answer
end
-- One probe a request is enough.
local has_probed = ARGV[A + 10] == '1'
local avoid, kinds = {}, {}
local i = A + 13
for _ = 1, tonumber(ARGV[A + 12]) do
  avoid[#avoid + 1] = ARGV[i]
  i = i + 1
end
for k = i + 1, i + tonumber(ARGV[i]) do kinds[#kinds + 1] = ARGV[k] end
-- Wrong entries of the indexes that one call looks at, whatever the indexes hold.
local MAX_TRIES = 32

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

if owner ~= '' and most and is_over_quota() then
  if ticket ~= '' and leave(ticket) then wake_line() end
  return done({ 'over' })
end

local number = math.huge
local waiting = call('ZCARD', P .. ':places') > 0
if ticket ~= '' and (waiting or again) then
  local at = tonumber(call('ZSCORE', P .. ':line', ticket))
  if not at then
    number = again or number
  elseif is_kept(ticket) then
    number = at
  end
end

local function indexes(kind, r) return P .. ':open:' .. kind .. ':' .. r, P .. ':failing:' .. kind .. ':' .. r end

-- Whether a waiter can use a node of these indexes: it must not have to avoid them all.
local function can_use(holder, open, failing)
  local avoids = call('HGET', P .. ':avoids', holder)
  if not avoids then return true end
  local left = call('ZCARD', open) + call('ZCARD', failing)
  for node in string.gmatch(avoids, '%S+') do
    if call('ZSCORE', open, node) or call('ZSCORE', failing, node) then left = left - 1 end
  end
  return left > 0
end

-- Whether a waiter with a lower number is in a queue for a slot that it can use. Drops lapsed places on the way. After
-- MAX_TRIES lapsed places it answers yes, and the next call looks further. After MAX_TRIES waiters that cannot use the slot
-- it answers no, or the slot would stay empty.
local function is_behind(queue, open, failing)
  local rank = 0
  for _ = 1, MAX_TRIES do
    local head = call('ZRANGE', queue, rank, rank, 'WITHSCORES')
    if not head[1] or tonumber(head[2]) >= number then return false end
    if not is_kept(head[1]) then
      leave(head[1])
      call('ZREM', queue, head[1])
    elseif can_use(head[1], open, failing) then
      return true
    else
      rank = rank + 1
    end
  end
  return rank < MAX_TRIES
end

-- Whether a waiter with a lower number can use a slot that nodes of this kind have.
local overtakes = {}
local function is_overtaking(kind)
  if overtakes[kind] == nil then
    overtakes[kind] = false
    for _, r in ipairs(RENDERERS) do
      local open, failing = indexes(kind, r)
      if call('EXISTS', open, failing) > 0 and is_behind(P .. ':wait:' .. kind .. ':' .. r, open, failing) then
        overtakes[kind] = true
        break
      end
    end
  end
  return overtakes[kind]
end

-- The first two of the best level of an index, with their scores. Of the fullest nodes, too, those are better that give a spawn sooner:
-- packing begins with the last one, and goes back to the first one with the same load.
local function top_of(index, packs)
  if not packs then return call('ZRANGE', index, 0, 1, 'WITHSCORES') end
  local last = call('ZREVRANGE', index, 0, 0, 'WITHSCORES')
  if not last[1] then return last end
  local from = string.format('(%.17g', tonumber(last[2]) - SAME_LOAD)
  return call('ZRANGEBYSCORE', index, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
end

-- Whether nodes with the first score are better than those with the second.
local function is_better(score, other, packs)
  if not packs or math.abs(score - other) < SAME_LOAD then return score < other end
  return score > other
end

-- The best level over all suitable kinds in their `open` or `failing` index, then one of its nodes at random. Returns the node
-- and its index.
local function choose(which, packs)
  local best, tied, alone = nil, {}, nil
  for _, kind in ipairs(kinds) do
    local index = P .. which .. kind .. ':' .. renderer
    local top = top_of(index, packs)
    if top[1] and not (waiting and is_overtaking(kind)) then
      local load = tonumber(top[2])
      if best == nil or is_better(load, best, packs) then
        best, tied = load, { index }
        alone = top[4] ~= top[2] and top[1]
      elseif load == best then
        tied[#tied + 1] = index
        alone = nil
      end
    end
  end
  if best == nil then return nil end
  if alone then return alone, tied[1] end
  local counts, total = {}, 0
  for t, index in ipairs(tied) do
    counts[t] = call('ZCOUNT', index, best, best)
    total = total + counts[t]
  end
  local pick = math.floor(random * total)
  for t, index in ipairs(tied) do
    if pick < counts[t] then
      local rank = packs and pick + call('ZCOUNT', index, '-inf', string.format('(%.17g', best)) or pick
      return call('ZRANGE', index, rank, rank)[1], index
    end
    pick = pick - counts[t]
  end
end

-- The record of a node that was found in an index: fields as in PLACING, and its taken slots. nil when the index is wrong,
-- because the node is silent, has no room, or has a broken record; the entry is then repaired or dropped.
local function usable(node, index)
  if is_late(node) then
    call_stale(node)
    expire_beats(64)
  else
    local h, used = placing(node), call('HLEN', P .. ':held:' .. node)
    if h[1] and load_for(renderer, h, used) then return h, used end
    if h[1] then shelve(node, h, used) end
  end
  call('ZREM', index, node)
end

local function pick(which, packs)
  for _ = 1, MAX_TRIES do
    local node, index = choose(which, packs)
    if not node then return nil end
    local h, used = usable(node, index)
    -- Scripts of the release before this one know nothing of health and put a failing node among the healthy ones.
    if h and which == ':open:' and is_failing(h[renderer == 'csr' and 8 or 9]) then
      shelve(node, h, used)
      h = nil
    end
    if h then return node, h, used end
  end
end

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
  if health and health.failing and health.next_probe <= now then return found, h, used, health end
  -- The index is wrong.
  call('ZREM', from, found)
  if h then shelve(found, h, used) end
end

local learns = call('EXISTS', P .. ':sick', P .. ':cause') > 0

-- Nodes to avoid leave the indexes for the time of the choice.
local aside = {}
local places = learns and { ':open:', ':failing:', ':probes:' } or { ':open:' }
for _, node in ipairs(avoid) do
  local kind = call('HGET', P .. ':node:' .. node, 'kind')
  local stands = false
  for _, which in ipairs(kind and places or {}) do
    for _, r in ipairs(RENDERERS) do
      stands = call('ZREM', P .. which .. kind .. ':' .. r, node) == 1 or stands
    end
  end
  if stands then aside[#aside + 1] = node end
end

-- Failing nodes are the least loaded ones. For a while after a request has failed alike wherever it was tried, second tries
-- go to the other end: a node that is well is found there, and its success shows which ones are not.
local packs = pack
if #avoid > 0 and call('EXISTS', P .. ':alike') == 1 then packs = not pack end

-- The chosen node with its record and taken slots, and its health where it is a probe.
local standing, probed = 'good', nil
local node, h, used = pick(':open:', packs)
if learns then
  if not node then
    node, h, used = pick(':failing:', false)
    standing = 'last'
  elseif not has_probed then
    local probe, its, taken, health = due_probe()
    if probe then
      node, h, used, standing, probed = probe, its, taken, 'probe', health
    end
  end
end
for _, back in ipairs(aside) do place(back) end

-- A lost index looks like a farm without room until the next heartbeats repair it. So several times a second, some nodes
-- are put into the indexes again before a request is refused.
local function mended()
  if not call('SET', P .. ':mended', '1', 'NX', 'PX', 200) then return false end
  local some = call('SRANDMEMBER', P .. ':names', 16)
  if #some == 0 then some = call('ZREVRANGE', P .. ':up', 0, 15) end
  for _, one in ipairs(some) do enrol(one) end
  return true
end
if not node and #avoid == 0 and mended() then node, h, used = pick(':open:', pack) end

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
