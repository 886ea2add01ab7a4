-- Settles a claim with its answer, or frees the key. Idempotent for the claimant, which repeats a call whose answer was lost.
-- ARGV: key, claimant, keeping time in ms or '' to give it free, answer. Returns 1, or 0 when the claim is not the
-- claimant's any more.
local key = P .. ':idem:' .. ARGV[A + 1]
local old = call('HMGET', key, 'claimant', 'answer')
local frees = ARGV[A + 3] == ''
local mine = old[1] == ARGV[A + 2] and (frees or not old[2] or old[2] == ARGV[A + 4])
if mine then
  if frees then
    call('DEL', key)
  else
    call('HSET', key, 'answer', ARGV[A + 4])
    call('PEXPIRE', key, ARGV[A + 3])
  end
end
wake()
return done(mine and 1 or 0)
