-- Applies the changes, and answers. Stands after changes.lua and apply.lua.
local before, sent, a = serial, accepted, A + 7
for _ = 1, ARGV[A + 6] + 0 do
  local s = ARGV[a] + 0
  sent = math.max(sent, s)
  if s > before then
    apply(a + 2, now - ARGV[a + 1], false)
    serial = s
  end
  a = a + 2 + SPAWN_FIELDS
end

-- Changes lead from one digest to the next only where all of them were applied, each once. A repeated report has led there before.
local digest = was[3]
local leads = digest and (digest == digest_before or serial == before and digest == digest_after)
if digest_after ~= '' and sent >= before and leads then
  if serial ~= before or digest ~= digest_after then call('HSET', key, 'serial', int(serial), 'digest', digest_after) end
else
  if serial ~= before then call('HSET', key, 'serial', int(serial)) end
  if digest then call('HDEL', key, 'digest') end
end
if freed then
  settle(node)
elseif slots_changed then
  place(node)
end

local answer = { 'ok', eligibility, drain, int(now), int(count_of(was[6]) or 0), '0', '', '0' }
-- As this report has left it: an end may count against the node.
local hcsr, hssr = was[9], was[10]
if has_judged then hcsr, hssr = unpack(call('HMGET', key, 'hcsr', 'hssr')) end
if hcsr or hssr then answer[7] = (hcsr and is_failing(hcsr) and 'csr ' or '') .. (hssr and is_failing(hssr) and 'ssr' or '') end
local abandoned, expired = P .. ':abandoned:' .. node, P .. ':expired:' .. node
if call('EXISTS', abandoned, expired) > 0 then
  local given_up = call('SMEMBERS', abandoned)
  answer[8] = #given_up
  for _, spawn in ipairs(given_up) do answer[#answer + 1] = spawn end
  for _, spawn in ipairs(call('SMEMBERS', expired)) do answer[#answer + 1] = spawn end
end
return done(answer)
