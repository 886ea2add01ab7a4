-- Takes in the heartbeat of a node on which nothing has changed: compares what both sides agree on, notes that the node lives, and looks
-- at a part of what is held. Its cost does not grow with the number of spawns. It repairs nothing: whatever differs, the agent sends its
-- whole list, and report.lua repairs all. docs/internals/decisions says why, and what is found when.
-- ARGV: node, epoch, last accepted change, digest, count of spawns, count of those with a GPU, number of the agent's last order, load,
--   supply, GPUs, age of the oldest last ping or '' and then the late spawns with spaces before them, 'node', 'spawn' or '',
--   with 'node': its sum, and four times ''; with '': five times '';
--   with 'spawn': id, its sum, owner or '', what the agent knows (t tags, o the request, c viewer came, d viewer left, l end of life,
--     s its server's id),
--     ms since it was started;
--   late spawns and the ages of their pings, pings and their ages: each as one text with spaces.
-- Returns {'differs', what} · {'ok', eligibility, drain, now, order's number, 1 where pings are wanted, renderers that fail there,
--   count of abandoned, abandoned …, expired …}.
local node, epoch, accepted, digest, spawns, gpu_spawns, generation =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local key, held = P .. ':node:' .. node, P .. ':held:' .. node
local supply, checks_node = ARGV[9], ARGV[12] == 'node'

local h
if checks_node then
  h = call('HMGET', key, 'epoch', 'avail', 'serial', 'digest', 'elig', 'drain', 'gen', 'gused', 'kind', 'desc', 'slots', 'gpus', 'csr',
    'ssr', 'advertise', 'instance', 'life', 'placeable', 'hcsr', 'hssr', 'supply')
else
  h = call('HMGET', key, 'epoch', 'avail', 'serial', 'digest', 'elig', 'drain', 'gen', 'gused', 'kind', 'hcsr', 'hssr', 'supply')
end
local hcsr, hssr, was_supply = unpack(h, #h - 2)
local function fails(health) return health and string.sub(health, 1, 1) == 'f' end
if h[1] ~= epoch then return { 'differs', 'unknown' } end
if h[2] ~= 'up' then return { 'differs', 'silent' } end
if h[3] ~= accepted then return { 'differs', 'changes' } end
if h[4] ~= digest then return { 'differs', 'digest' } end

-- The operator's order. A drain is JSON; report.lua reads it whole.
local eligibility, drain, known = h[5], h[6], tonumber(h[7] or '')
local is_order = (eligibility == 'eligible' or eligibility == 'cordoned' or eligibility == 'draining') and drain
  and (drain == '' or string.find(drain, '"deadline":"', 1, true) and string.find(drain, '"startedAt":"', 1, true))
if not is_order or not known or not (known >= generation and known < 9007199254740992) then return { 'differs', 'order' } end

-- What has no place of its own in the list of slots is reserved or given up: there is no telling how many of these have a GPU.
local used, gused, kind = call('HLEN', held), tonumber(h[8] or ''), h[9] or ''
local others = used - spawns
if others < 0 or not gused or not (gused >= gpu_spawns and gused <= gpu_spawns + others) then return { 'differs', 'slots' } end

-- What no request finds the node without. One call covers five keys, of which mostly the first alone is there; it counts five times, so
-- that it cannot be mistaken for the others.
local kind_json, kindver = call('HGET', P .. ':kinds', kind), P .. ':kindver'
local abandoned, expired = P .. ':abandoned:' .. node, P .. ':expired:' .. node
local there = redis.pcall('EXISTS', kindver, kindver, kindver, kindver, kindver, abandoned, expired, P .. ':pings:all',
  P .. ':pings:of:' .. node)
-- An agent whose user of Redis is that of the release before this one may not look at all of them.
if type(there) ~= 'number' then there = call('EXISTS', kindver) * 6 end
if not kind_json or call('SISMEMBER', P .. ':names', node) == 0 or there < 5 then return { 'differs', 'index' } end
local is_plain = there == 5

local function differs_node()
  for f = 10, 17 do
    if not h[f] then return 'node' end
  end
  if redis.sha1hex(table.concat({ kind, kind_json, unpack(h, 10, 17) }, '\n')) ~= ARGV[13] then return 'node' end
  local placeable = eligibility == 'eligible'
  if h[18] ~= (placeable and '1' or '0') then return 'node' end
  local slots, gpus = tonumber(h[11]), tonumber(h[12])
  for r, renderer in ipairs({ 'csr', 'ssr' }) do
    if h[12 + r] == '1' then
      local tail, failing = kind .. ':' .. renderer, fails(h[18 + r])
      if call('SISMEMBER', P .. ':known:' .. tail, node) == 0
        or (call('SISMEMBER', P .. ':members:' .. tail, node) == 1) ~= placeable
        or (call('ZSCORE', P .. ':sick', renderer .. ' ' .. node) and true or false) ~= (failing or false)
      then
        return 'index'
      end
      local load = placeable and not failing and used < slots and used / math.max(slots, 1) or nil
      if load and renderer == 'ssr' and gpus >= 0 then
        load = gused < gpus and math.max(load, gpus > 0 and gused / gpus or 0) or nil
      end
      local score = tonumber(call('ZSCORE', P .. ':open:' .. tail, node) or '')
      local expected = load and load + handicap(renderer, was_supply)
      if (load == nil) ~= (score == nil) or load and math.abs(expected - score) > 1e-11 then return 'index' end
    end
  end
  if others > 0 then
    -- Without an expiry a reservation's slot would never come back. Spawns are among those that are looked at, so not all are seen.
    local some = call('HRANDFIELD', held, 8, 'WITHVALUES')
    for s = 1, #some, 2 do
      if string.sub(some[s + 1], 1, 1) ~= 'A' and not call('ZSCORE', P .. ':expiries', some[s] .. node) then return 'index' end
    end
    if call('EXISTS', P .. ':expiries') == 0 then return 'index' end
  end
end

local function differs_spawn()
  local id, sum, says, knows = ARGV[13], ARGV[14], ARGV[15], ARGV[16]
  local r = call('HMGET', P .. ':spawn:' .. id, 'state', 'renderer', 'endpoint', 'gpu', 'labels', 'tags', 'origin', 'owner', 'started',
    'connected', 'disconnected', 'expires', 'events', 'server')
  for f = 1, 5 do
    if not r[f] then return 'record' end
  end
  local owner = r[8] or ''
  local text = table.concat({ r[1], r[2], r[3], r[4], r[5] }, '\n')
  if string.find(knows, 't', 1, true) then text = text .. '\n' .. (r[6] or '') end
  if redis.sha1hex(text) ~= sum or says ~= '' and owner ~= says or not tonumber(r[13]) then return 'record' end
  -- As repair_record in spawns.lua.
  if math.abs((tonumber(r[9]) or 0) - (now - ARGV[17])) >= 5000 then return 'record' end
  if string.find(knows, 'o', 1, true) and string.sub(r[7] or '', 1, 1) ~= '{' then return 'record' end
  if string.find(knows, 'c', 1, true) and (not tonumber(r[10])
    or (tonumber(r[11]) ~= nil) ~= (string.find(knows, 'd', 1, true) ~= nil)) then return 'record' end
  if string.find(knows, 'l', 1, true) and not tonumber(r[12]) then return 'record' end
  if string.find(knows, 's', 1, true) and (r[14] or '') == '' then return 'record' end
  if call('HGET', held, id) ~= (r[4] ~= '' and 'Ag' or 'A-') .. owner then return 'slots' end
  if not call('ZSCORE', P .. ':spawns', id) or not call('ZSCORE', P .. ':spawns:' .. node, id) then return 'index' end
  if owner ~= '' and (not call('ZSCORE', P .. ':spawns-of:' .. owner, id) or call('HEXISTS', P .. ':owned:' .. owner, id) == 0) then
    return 'index'
  end
end

local differs
if checks_node then differs = differs_node() elseif ARGV[12] == 'spawn' then differs = differs_spawn() end
if differs then return { 'differs', differs } end

local age, late = string.match(ARGV[11], '^(%d*)(.*)$')
local heard = age ~= '' and int(now - age) .. late or ''
call('HSET', key, 'load', ARGV[8], 'supply', supply, 'gpulist', ARGV[10], 'beat', int(now), 'heard', heard)
if supply ~= was_supply then
  -- Among nodes of the same load it stands elsewhere now.
  for _, renderer in ipairs({ 'csr', 'ssr' }) do
    local open, news = P .. ':open:' .. kind .. ':' .. renderer, handicap(renderer, supply) - handicap(renderer, was_supply)
    local score = news ~= 0 and call('ZSCORE', open, node)
    if score then call('ZADD', open, score + news, node) end
  end
end
call('ZADD', P .. ':up', int(now), node)
for id, ago in string.gmatch(ARGV[18], '(%S+) (%d+)') do
  local record = P .. ':spawn:' .. id
  local was = call('HGET', record, 'ping')
  if was and math.abs((tonumber(was) or 0) - (now - ago)) > 50 then call('HSET', record, 'ping', int(now - ago)) end
end
local wants_pings = not is_plain and are_pings_wanted(node)
local seq = wants_pings and ARGV[19] ~= '' and tonumber(call('GET', P .. ':seq') or '')
-- Where the number is lost or damaged, core.lua finds another; these pings are dropped.
if seq and seq >= 0 and seq < now_us + 3600000000 then
  seq = math.max(seq + 1, now_us)
  call('SET', P .. ':seq', int(seq))
  local pings = {}
  for id, ago in string.gmatch(ARGV[19], '(%S+) (%d+)') do pings[#pings + 1] = id .. ' ' .. int(now - ago) end
  relay_pings(node, seq, table.concat(pings, ' '))
end

local failing = (fails(hcsr) and 'csr ' or '') .. (fails(hssr) and 'ssr' or '')
local answer = { 'ok', eligibility, drain, int(now), int(known), wants_pings and '1' or '0', failing, '0' }
if not is_plain then
  local given_up = call('SMEMBERS', abandoned)
  answer[8] = #given_up
  for _, spawn in ipairs(given_up) do answer[#answer + 1] = spawn end
  for _, spawn in ipairs(call('SMEMBERS', expired)) do answer[#answer + 1] = spawn end
end
return answer
