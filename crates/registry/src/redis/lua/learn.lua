-- Records the outcomes of one request's starts.
-- ARGV: renderer, 1 when it failed in the same way on every node, the reason of that, what it wanted of a node as JSON (Demand in the model
--   crate), number of outcomes, and for each: node, 'ready', 'failed' or 'nothing', reason, 1 when conclusive, 1 when it concerns the whole
--   node, random number in [0, 1).
-- Returns nothing.
local CAUSE_REQUESTS, CAUSE_WITHIN, CAUSE_MEMORY, CAUSE_DEMANDS = 3, 60000, 600000, 8
local renderer, everywhere, why, wanted = ARGV[A + 1], ARGV[A + 2] == '1', ARGV[A + 3], ARGV[A + 4]

-- The farm's cause: requests that failed alike on every node that they were tried on, without a success on a node that suits them. The field
-- d:<demand> is there for what they wanted of a node. cause.rs has the same rules.
local cause = P .. ':cause'

-- The cause's fields with a demand.
local function demands()
  local all = redis.pcall('HGETALL', cause)
  local found = {}
  for i = 1, is_error(all) and 0 or #all, 2 do
    local demand = string.match(all[i], '^d:(.*)$')
    if demand then found[#found + 1] = demand end
  end
  return found
end

local function suits(demand, kind)
  local pool, labels = demand.pool, type(demand.labels) == 'table' and demand.labels or {}
  local carried = type(kind.labels) == 'table' and kind.labels or {}
  if type(pool) == 'string' then
    if pool ~= kind.pool then return false end
  elseif kind.dedicated == true then
    return false
  end
  for name, value in pairs(labels) do
    if carried[name] ~= value then return false end
  end
  return true
end

-- A server became ready on the node: the cause does not concern requests that it suits, and is over where it concerns no others.
local function clear_cause(node)
  local ok, kind = pcall(cjson.decode, call('HGET', P .. ':kinds', call('HGET', P .. ':node:' .. node, 'kind') or '') or '')
  if not ok or type(kind) ~= 'table' then return end
  local left = 0
  for _, text in ipairs(demands()) do
    local read, demand = pcall(cjson.decode, text)
    if not read or type(demand) ~= 'table' or demand.renderer == renderer and suits(demand, kind) then
      call('HDEL', cause, 'd:' .. text)
    else
      left = left + 1
    end
  end
  if left == 0 then call('DEL', cause) end
end

for i = A + 6, A + 5 + tonumber(ARGV[A + 5]) * 6, 6 do
  local node, what = ARGV[i], ARGV[i + 1]
  if what == 'ready' then
    node_succeeded(node, renderer)
    clear_cause(node)
  elseif what == 'failed' then
    node_failed(node, renderer, ARGV[i + 2], ARGV[i + 3] == '1', ARGV[i + 4] == '1', nil, tonumber(ARGV[i + 5]) or 0)
  else
    node_released(node, renderer)
  end
end

if everywhere then
  call('SET', P .. ':alike', '1', 'PX', CAUSE_WITHIN)
  local was = call('HMGET', cause, 'since', 'requests', 'last')
  local since, requests, last = tonumber(was[1]), tonumber(was[2]), tonumber(was[3])
  local keep = requests and requests >= CAUSE_REQUESTS and CAUSE_MEMORY or CAUSE_WITHIN
  local from = requests and requests >= CAUSE_REQUESTS and last or since
  if not since or not requests or not from or math.abs(now - from) > keep then
    call('DEL', cause)
    since, requests = now, 0
  end
  requests = requests + 1
  call('HSET', cause, 'reason', why, 'since', int(since), 'requests', int(requests), 'last', int(now))
  if #demands() < CAUSE_DEMANDS then call('HSET', cause, 'd:' .. wanted, '1') end
  call('PEXPIRE', cause, requests >= CAUSE_REQUESTS and CAUSE_MEMORY or CAUSE_WITHIN)
end
return done()
