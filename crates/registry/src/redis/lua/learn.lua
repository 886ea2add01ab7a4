-- Records the outcomes of one request's starts.
-- ARGV: renderer, 1 when it failed in the same way on every node, the reason of that, number of outcomes, and for each: node,
--   'ready', 'failed' or 'nothing', reason, 1 when conclusive, 1 when it concerns the whole node, random number in [0, 1).
-- Returns nothing.
local CAUSE_REQUESTS, CAUSE_WITHIN, CAUSE_MEMORY = 3, 60000, 600000
local renderer, everywhere, why = ARGV[A + 1], ARGV[A + 2] == '1', ARGV[A + 3]
local ready = false
for i = A + 5, A + 4 + tonumber(ARGV[A + 4]) * 6, 6 do
  local node, what = ARGV[i], ARGV[i + 1]
  if what == 'ready' then
    ready = true
    node_succeeded(node, renderer)
  elseif what == 'failed' then
    node_failed(node, renderer, ARGV[i + 2], ARGV[i + 3] == '1', ARGV[i + 4] == '1', nil, tonumber(ARGV[i + 5]) or 0)
  else
    node_released(node, renderer)
  end
end

-- The farm's cause: requests that failed alike on every node, without a success between them. cause.rs has the same rules.
local cause = P .. ':cause'
if everywhere then call('SET', P .. ':alike', '1', 'PX', CAUSE_WITHIN) end
if ready then
  call('DEL', cause)
elseif everywhere then
  local was = call('HMGET', cause, 'since', 'requests', 'last')
  local since, requests, last = tonumber(was[1]), tonumber(was[2]), tonumber(was[3])
  local keep = requests and requests >= CAUSE_REQUESTS and CAUSE_MEMORY or CAUSE_WITHIN
  local from = requests and requests >= CAUSE_REQUESTS and last or since
  if not since or not requests or not from or math.abs(now - from) > keep then since, requests = now, 0 end
  requests = requests + 1
  call('HSET', cause, 'reason', why, 'since', int(since), 'requests', int(requests), 'last', int(now))
  call('PEXPIRE', cause, requests >= CAUSE_REQUESTS and CAUSE_MEMORY or CAUSE_WITHIN)
end
return done()
