-- Whether a node's heartbeats are late. Where the index of heartbeats is lost, the node's record decides.
local function is_late(node)
  local beat = tonumber(call('ZSCORE', P .. ':up', node) or call('HGET', P .. ':node:' .. node, 'beat'))
  if not beat then return true end
  return beat <= now - STALE and silent_since() <= now - STALE
end
