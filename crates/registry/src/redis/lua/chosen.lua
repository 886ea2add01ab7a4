-- Chooses a node: the steps. Stands after choice.lua.
if owner ~= '' and most and is_over_quota() then
  if ticket ~= '' and leave(ticket) then wake_line() end
  return done({ 'over' })
end

if ticket ~= '' and (waiting or again) then
  local at = tonumber(call('ZSCORE', P .. ':line', ticket))
  if not at then
    number = again or number
  elseif is_kept(ticket) then
    number = at
  end
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

if not node and #avoid == 0 and mended() then node, h, used = pick(':open:', pack) end
