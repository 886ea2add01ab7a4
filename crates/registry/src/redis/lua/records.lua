-- Spawn records: their indexes, and what follows from an end.

-- The exit of a spawn whose node was given up, or whose agent does not know it.
local UNSEEN = '{"reason":"node-lost"}'

-- The indexes of all spawns, of a node's and of an owner's are in the order of first events. Returns how many lacked it.
local function index_spawn(node, spawn, owner, seq)
  local lacked = call('ZADD', P .. ':spawns', 'NX', seq, spawn) + call('ZADD', P .. ':spawns:' .. node, 'NX', seq, spawn)
  if owner ~= '' then lacked = lacked + call('ZADD', P .. ':spawns-of:' .. owner, 'NX', seq, spawn) end
  return lacked
end
