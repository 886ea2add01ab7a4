-- A server that ends by a failure this soon after it was ready counts against its node.
local EARLY_END = 10000
local EARLY_REASONS = { ['failed'] = true, ['signaled'] = true, ['liveliness-lost'] = true }

-- Counts an end, and has it count against the node where it came early. ready, ended: when, in ms, or ''; exit: as JSON, as the agent wrote
-- it. Returns whether it came early.
local function tally_end(node, renderer, ready, ended, exit)
  local reason = string.match(exit, '"reason":"([%l-]+)"')
  if reason then tally('e:' .. reason) end
  if not EARLY_REASONS[reason or ''] or not tonumber(ready) then return false end
  local lived = math.max((tonumber(ended) or now) - ready, 0)
  if lived < EARLY_END then ended_early(node, renderer, lived, reason, exit) end
  return lived < EARLY_END
end
