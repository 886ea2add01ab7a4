-- The choice of a node: the least loaded of the healthy ones; now and then a failing one whose probe is due; a failing one
-- otherwise only when no healthy one has room. `reserve` takes the slot, and `forecast` says only what it would be.
-- ARGV: spawn, renderer, 1 to pack, random number in [0, 1), known version of the kinds, ticket or '', owner or '', the most
--   the owner may have or '', number that the ticket had in line or '', 1 when the request has tried a failing node, JSON of who
--   waits for what or '', number of nodes to avoid, those nodes, number of suitable kinds, those kinds.
-- Returns from the script {'over'} when the owner has as many as it may have, and {'kinds', version, kind, JSON, …} when the
--   caller's copy of the kinds is old: then nothing was done.
local spawn, renderer, pack, random = ARGV[A + 1], ARGV[A + 2], ARGV[A + 3] == '1', tonumber(ARGV[A + 4])
local ticket, owner, most, again = ARGV[A + 6], ARGV[A + 7], tonumber(ARGV[A + 8]), tonumber(ARGV[A + 9])
local version = call('GET', P .. ':kindver') or '0'
if version ~= ARGV[A + 5] then
  local answer = { 'kinds', version }
  for _, field in ipairs(call('HGETALL', P .. ':kinds')) do answer[#answer + 1] = field end
  return answer
end
-- One probe a request is enough.
local has_probed = ARGV[A + 10] == '1'
local avoid, kinds = {}, {}
local i = A + 13
for _ = 1, tonumber(ARGV[A + 12]) do
  avoid[#avoid + 1] = ARGV[i]
  i = i + 1
end
for k = i + 1, i + tonumber(ARGV[i]) do kinds[#kinds + 1] = ARGV[k] end
-- Wrong entries of the indexes that one call looks at, whatever the indexes hold.
local MAX_TRIES = 32

-- Where this request stands in line, and whether anybody does.
local number = math.huge
local waiting = call('ZCARD', P .. ':places') > 0
-- Whether a waiter with a lower number can use a slot that nodes of a kind have, where that was asked already.
local overtakes = {}
