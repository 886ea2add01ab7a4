-- Slots: whose they are, and how they come back.
--
-- held:<n> maps a spawn to two letters and its owner, if it has one. The first letter says why the slot is taken: R
-- reserved and not reported by the agent yet, X such a reservation given up, A reported by the agent. The second is g when
-- a GPU slot goes with it, else -. embedded/slots.rs draws how one becomes another.
--
-- owned:<o> has what the owner's quota counts: its reservations and spawns that hold a slot. Spawns that are lost with a
-- node do not count, or a node that never comes back would keep its owners from starting others for as long as the node is
-- remembered.

local function own(owner, node, spawn)
  if owner ~= '' then call('HSET', P .. ':owned:' .. owner, spawn, node) end
end

local function disown(hold, spawn)
  if #hold > 2 then call('HDEL', P .. ':owned:' .. string.sub(hold, 3), spawn) end
end

-- Gives a slot back; settle must follow.
local function let_go(node, spawn)
  local held, key = P .. ':held:' .. node, P .. ':node:' .. node
  local hold = call('HGET', held, spawn)
  if not hold then return false end
  call('HDEL', held, spawn)
  if string.sub(hold, 2, 2) == 'g' then
    call('HSET', key, 'gused', int(math.max((tonumber(call('HGET', key, 'gused')) or 0) - 1, 0)))
  end
  disown(hold, spawn)
  return true
end
