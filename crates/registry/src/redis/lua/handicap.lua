-- Among healthy nodes of the same load, those come first that give a spawn soonest: the index has the load and a little more, which is
-- less than two loads differ by where nodes have fewer than 10 000 slots. model::Supply::handicap is where the numbers come from;
-- embedded/shelf.rs adds the same.
local HANDICAP, MAX_HANDICAP = 1e-10, 63
local SAME_LOAD = HANDICAP * (MAX_HANDICAP + 1)

-- How many steps of it a node has.
local function handicap_steps(renderer, supply)
  local csr, ssr = string.match(supply or '', '^(%d+) (%d+)')
  return math.min(tonumber(renderer == 'csr' and csr or ssr) or 1, MAX_HANDICAP)
end

local function handicap(renderer, supply) return HANDICAP * handicap_steps(renderer, supply) end
