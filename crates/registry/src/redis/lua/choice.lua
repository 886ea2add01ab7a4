-- How a node is chosen. Stands after demand.lua.

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

-- Late nodes that one call calls stale at the most, beside those that it has found in an index: of a large farm thousands may fall silent at
-- once, and each costs some thirty microseconds. The sweep calls the others stale, and meanwhile a farm without room is full at worst.
local late_left = 32
local function expire_some()
  if late_left > 0 then late_left = late_left - expire_beats(late_left) end
end

-- The record of a node that was found in an index: fields as in PLACING, and its taken slots. nil when the index is wrong,
-- because the node is silent, has no room, or has a broken record; the entry is then repaired or dropped.
local function usable(node, index)
  if is_late(node) then
    call_stale(node)
    expire_some()
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
    local health = h and which == ':open:' and h[renderer == 'csr' and 8 or 9]
    if health and is_avoided(read_health(health)) then
      shelve(node, h, used)
      h = nil
    end
    if h then return node, h, used end
  end
end
