-- Puts a node's spawns back into the indexes.

local function own_all(owner, node, spawns)
  for from = 1, #spawns, 1000 do
    local pairs_of = {}
    for n = from, math.min(from + 999, #spawns) do
      pairs_of[#pairs_of + 1] = spawns[n]
      pairs_of[#pairs_of + 1] = node
    end
    call('HSET', P .. ':owned:' .. owner, unpack(pairs_of))
  end
end

-- Puts living spawns of a node back into every index that has lost them. owners: spawn -> owner, or ''.
local function repair_indexes(node, owners)
  local by_owner, all = {}, {}
  for spawn, owner in pairs(owners) do
    all[#all + 1] = spawn
    if owner ~= '' then
      by_owner[owner] = by_owner[owner] or {}
      table.insert(by_owner[owner], spawn)
    end
  end
  local lost = {}
  local function look(index, spawns)
    -- Lua takes no more than some thousands of arguments.
    for from = 1, #spawns, 1000 do
      local to = math.min(from + 999, #spawns)
      for n, score in ipairs(call('ZMSCORE', index, unpack(spawns, from, to))) do
        if not score then lost[spawns[from + n - 1]] = true end
      end
    end
  end
  look(P .. ':spawns', all)
  look(P .. ':spawns:' .. node, all)
  for owner, spawns in pairs(by_owner) do
    look(P .. ':spawns-of:' .. owner, spawns)
    own_all(owner, node, spawns)
  end
  for spawn in pairs(lost) do
    local first = call('HGET', P .. ':spawn:' .. spawn, 'e1')
    index_spawn(node, spawn, owners[spawn], first and string.match(first, '^%d+') or next_seq())
  end
end
