-- Ends a heartbeat that differs in nothing: notes what it says, and answers. Stands after keepalive.lua and its check.
local heard, late, pings, at = ARGV[11], ARGV[12], ARGV[13], int(now)
local age = tonumber(heard)
if age then
  heard = int(now - age)
elseif heard ~= '' then
  local spawns
  age, spawns = string.match(heard, '^(%d*)(.*)$')
  heard = age ~= '' and int(now - age) .. spawns or ''
end
local supply = ARGV[9]
call('HSET', key, 'load', ARGV[8], 'supply', supply, 'gpulist', ARGV[10], 'beat', at, 'heard', heard)
call('ZADD', P .. ':up', at, node)
if supply ~= was_supply then supply_changed(node, kind, was_supply, supply) end
if late ~= '' then
  for id, ago in string.gmatch(late, '(%S+) (%d+)') do
    local record = P .. ':spawn:' .. id
    local was = call('HGET', record, 'ping')
    if was and math.abs((tonumber(was) or 0) - (now - ago)) > 50 then call('HSET', record, 'ping', int(now - ago)) end
  end
end
if is_plain and there == 5 and not csr_fails and not ssr_fails then return { 'ok' } end

local wants_pings, given_up, void = false, {}, {}
if there > 5 then
  wants_pings, given_up, void = bring_pings(node, pings), call('SMEMBERS', abandoned), call('SMEMBERS', expired)
end
local failing = (csr_fails and 'csr ' or '') .. (ssr_fails and 'ssr' or '')
local answer = { 'ok', eligibility, drain, at, order, wants_pings and '1' or '0', failing, #given_up }
for _, spawn in ipairs(given_up) do answer[#answer + 1] = spawn end
for _, spawn in ipairs(void) do answer[#answer + 1] = spawn end
return answer
