-- Looks at the record of a heartbeat's node, and at the indexes that the node stands in. Stands after keepalive.lua.
-- ARGV: after those of keepalive.lua, the sum of the record.
local n = call('HMGET', key, 'desc', 'slots', 'gpus', 'csr', 'ssr', 'advertise', 'instance', 'life', 'placeable')
local placeable = eligibility == 'eligible'
if not (n[1] and n[2] and n[3] and n[4] and n[5] and n[6] and n[7] and n[8]) or n[9] ~= (placeable and '1' or '0')
  or redis.sha1hex(kind .. '\n' .. kind_json .. '\n' .. n[1] .. '\n' .. n[2] .. '\n' .. n[3] .. '\n' .. n[4] .. '\n' .. n[5] .. '\n'
    .. n[6] .. '\n' .. n[7] .. '\n' .. n[8]) ~= ARGV[14]
then
  return { 'differs', 'node' }
end

local slots, gpus, members = tonumber(n[2]), tonumber(n[3]), placeable and 1 or 0
local has_room, load = placeable and used < slots, used / math.max(slots, 1)
local sick = P .. ':sick'
-- On probation, too, it stands as one that fails: its record has a time that servers must live.
local ON_PROBATION = '^o|%d+|%d+|%d+|%d+|%d+|%d+|[1-9]'
local csr_avoided = csr_fails or hcsr and string.find(hcsr, ON_PROBATION)
local ssr_avoided = ssr_fails or hssr and string.find(hssr, ON_PROBATION)
local has_sick = csr_avoided or ssr_avoided or call('EXISTS', sick) == 1
for r = 4, 5 do
  if n[r] == '1' then
    local renderer, avoided, expected = 'csr', csr_avoided, load
    if r == 5 then
      renderer, avoided = 'ssr', ssr_avoided
      if gpus > 0 then expected = math.max(load, gused / gpus) end
    end
    local tail = kind .. ':' .. renderer
    if call('SISMEMBER', P .. ':known:' .. tail, node) == 0 or call('SISMEMBER', P .. ':members:' .. tail, node) ~= members
      or has_sick and (call('ZSCORE', sick, renderer .. ' ' .. node) and true or false) ~= (avoided and true or false)
    then
      return { 'differs', 'index' }
    end
    local stands, score = has_room and not avoided and (r == 4 or gpus < 0 or gused < gpus), call('ZSCORE', P .. ':open:' .. tail, node)
    if (score and true or false) ~= stands
      or stands and math.abs(expected + handicap(renderer, was_supply) - score) > 1e-11
    then
      return { 'differs', 'index' }
    end
  end
end
if others > 0 then
  -- Without an expiry a reservation's slot would never come back. Spawns are among those that are looked at, so not all are seen.
  local some = call('HRANDFIELD', held, 8, 'WITHVALUES')
  for s = 1, #some, 2 do
    if string.sub(some[s + 1], 1, 1) ~= 'A' and not call('ZSCORE', P .. ':expiries', some[s] .. node) then
      return { 'differs', 'index' }
    end
  end
  if call('EXISTS', P .. ':expiries') == 0 then return { 'differs', 'index' } end
end
