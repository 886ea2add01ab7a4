-- Applies the changes of a report and then its list, and makes the registry agree with the list. Stands after report.lua and apply.lua.
local wants_pings = heartbeat and are_pings_wanted(node)
local forgotten, listed, list_from = {}, nil, nil
-- HINCRBY fails on a malformed count.
if not count_of(was.gused) then call('HSET', key, 'gused', 0) end
if heartbeat then
  register()
  for _ = 1, tonumber(arg()) do forgotten[#forgotten + 1] = arg() end
  listed, list_from = tonumber(arg()), i
  i = i + listed * SPAWN_FIELDS -- the list is applied after the changes
else
  kind = was.kind or ''
end

local before, sent = serial, accepted
for _ = 1, tonumber(arg()) do
  local s, age = tonumber(arg()), tonumber(arg())
  sent = math.max(sent, s)
  if s > before then
    apply(i + 1, now - age, false)
    serial = s
  end
  i = i + SPAWN_FIELDS
end
if tostring(serial) ~= was.serial then call('HSET', key, 'serial', int(serial)) end

local expired = call('SMEMBERS', P .. ':expired:' .. node)

-- Takes a reservation's slot back.
local function drop_hold(spawn)
  freed = let_go(node, spawn) or freed
  holds[spawn] = nil
end

-- Makes the registry agree with the heartbeat's list.
local function reconcile()
  local present, known_here = {}, {}
  i = list_from
  holds, pings = {}, {}
  local flat = call('HGETALL', held)
  for h = 1, #flat, 2 do holds[flat[h]] = flat[h + 1] end
  for _ = 1, listed do
    local id, owner = apply(i + 1, now, true)
    i = i + SPAWN_FIELDS
    present[id], known_here[id] = owner, true
  end
  if #pings > 0 and wants_pings then relay_pings(node, next_seq(), table.concat(pings, ' ')) end
  local gone, gpus = {}, 0
  for spawn, hold in pairs(holds) do
    local why = string.sub(hold, 1, 1)
    if why == 'A' and not present[spawn] then
      gone[#gone + 1] = spawn
    elseif why ~= 'A' and full then
      -- Without an expiry its slot would never come back.
      call('ZADD', P .. ':expiries', 'NX', int(now + RESERVATION), spawn .. node)
    end
  end
  for _, spawn in ipairs(gone) do
    drop_hold(spawn)
    end_unseen(node, spawn)
  end
  for _, spawn in ipairs(forgotten) do
    call('SREM', P .. ':abandoned:' .. node, spawn)
    known_here[spawn] = true
    if string.sub(holds[spawn] or '', 1, 1) == 'X' then
      call('ZREM', P .. ':expiries', spawn .. node)
      drop_hold(spawn)
    end
  end
  -- The agent knows of these: they run, or never will.
  for e = #expired, 1, -1 do
    if known_here[expired[e]] then call('SREM', P .. ':expired:' .. node, table.remove(expired, e)) end
  end
  for _, hold in pairs(holds) do
    if string.sub(hold, 2, 2) == 'g' then gpus = gpus + 1 end
  end
  if slots_changed or freed or was.gused ~= int(gpus) then
    call('HSET', key, 'gused', int(gpus))
    slots_changed = true
  end
  if full then repair_indexes(node, present) end
end

-- A delayed report may arrive after later ones. Its list is older than their changes, and would undo them. Agents without
-- an identity do not send what was accepted.
local is_whole = heartbeat and (instance == '' or sent >= before)
if is_whole then reconcile() end
-- Changes lead from one digest to the next only where all of them were applied, each once. A repeated report has led there before.
local leads = was.digest and (was.digest == digest_before or serial == before and was.digest == digest_after)
local agrees = is_whole or not heartbeat and sent >= before and leads
if digest_after ~= '' and agrees then
  if was.digest ~= digest_after then call('HSET', key, 'digest', digest_after) end
elseif was.digest then
  call('HDEL', key, 'digest')
end
-- An order that the agent has and this registry lacks.
if heartbeat and desired[1] > (count_of(was.gen) or 0) then
  local drain = desired[3]
  set_order(node, { was.elig, was.drain or '' }, desired[2], drain, desired[1], drain == '' and '{}' or drain)
  was.elig, was.drain, was.gen = desired[2], drain, int(desired[1])
end
if freed then
  settle(node)
elseif full or slots_changed then
  place(node)
end

local abandoned = call('SMEMBERS', P .. ':abandoned:' .. node)
-- As this report has left it: an end may count against the node, and another agent begins anew.
local health = call('HMGET', key, 'hcsr', 'hssr')
local fails = (is_failing(health[1]) and 'csr ' or '') .. (is_failing(health[2]) and 'ssr' or '')
local answer = { 'ok', was.elig, was.drain or '', int(now), int(count_of(was.gen) or 0),
  wants_pings and '1' or '0', fails, #abandoned }
for _, spawn in ipairs(abandoned) do answer[#answer + 1] = spawn end
for _, spawn in ipairs(expired) do answer[#answer + 1] = spawn end
return done(answer)
