-- Claims an idempotency key.
-- ARGV: key, fingerprint, claimant, claim time and keeping time in ms.
-- Returns {'mine'} · {'running'} · {'settled', answer} · {'conflict'}.
local key = P .. ':idem:' .. ARGV[A + 1]
local fingerprint, claimant = ARGV[A + 2], ARGV[A + 3]
local old = call('HMGET', key, 'fingerprint', 'claimant', 'until', 'answer')
if old[1] then
  if old[1] ~= fingerprint then return { 'conflict' } end
  if old[4] then return { 'settled', old[4] } end
  -- A claim ends at most one claim time ahead. One that ends later was made before the clock was set back, and is over.
  local ends = tonumber(old[3]) or 0
  if old[2] ~= claimant and ends > now and ends <= now + ARGV[A + 4] then return { 'running' } end
end
call('HSET', key, 'fingerprint', fingerprint, 'claimant', claimant, 'until', int(now + ARGV[A + 4]))
call('PEXPIRE', key, int(ARGV[A + 4] + ARGV[A + 5]))
return { 'mine' }
