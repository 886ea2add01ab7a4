-- The waiting line, where a request would take a slot that an earlier one waits for.

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
