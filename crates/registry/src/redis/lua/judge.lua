-- Judging silence: a registry that judges heartbeats must have been there to receive them. judge.rs does the same.
--
-- The registry notes when it last judged. Front doors make it judge about once a second. When much more than that has
-- passed (it was stopped or down, no front door asked, its clock was set), or time went backwards, the silence of nodes
-- counts from now: `grace`.
--
-- A registry that is full refuses large writes before small ones, so heartbeats may be refused while it is asked to judge.
-- Silence counts from when there was room. Where keys of all kinds are evicted instead, there is room. It is looked at no
-- more often than the note is written: a farm without a free slot judges with every request.
local JUDGE = P .. ':judge'
local FULL = 0.98
local grace

local function is_full()
  local info = redis.pcall('INFO', 'memory')
  if type(info) ~= 'string' or string.match(info, 'maxmemory_policy:allkeys') then return false end
  local used, limit = tonumber(string.match(info, 'used_memory:(%d+)')), tonumber(string.match(info, 'maxmemory:(%d+)'))
  return used and limit and limit > 0 and used > limit * FULL
end

-- The moment from which silence counts. Notes that the registry judges now.
local function silent_since()
  if grace then return grace end
  local was = call('HMGET', JUDGE, 'at', 'grace')
  local at, old = tonumber(was[1]), tonumber(was[2])
  grace = old
  local looks = not at or now - at > STALE / 30
  if not at or not old or now < at or now - at > STALE * 2 / 3 or old > now or (looks and is_full()) then grace = now end
  if grace ~= old or looks then call('HSET', JUDGE, 'at', int(now), 'grace', int(grace)) end
  return grace
end

-- Whether a place in line has not lapsed. Its time counts from the moment at which front doors could renew it.
local function is_kept(ticket)
  local kept = tonumber(call('ZSCORE', P .. ':places', ticket))
  return kept and (kept > now or silent_since() + PLACE > now)
end
