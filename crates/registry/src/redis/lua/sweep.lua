-- Does what is due by time, a bounded amount of it: one run takes some milliseconds at the most, whatever has happened.
-- ARGV: none. Returns 1 when more is due already, else 0.
local MAX_BEATS, MAX_CLAMPED, MAX_EXPIRED, MAX_HELD, MAX_DROPPED = 64, 64, 64, 128, 100
local is_more = false
-- Notes that as many were found as are done in one run.
local function bounded(found, most)
  if #found >= most then is_more = true end
  return found
end
-- As many of these nodes as hold so many slots together; at least one.
local function of_some(nodes)
  local some, held = {}, 0
  for _, node in ipairs(nodes) do
    held = held + call('HLEN', P .. ':held:' .. node)
    if #some > 0 and held > MAX_HELD then
      is_more = true
      break
    end
    some[#some + 1] = node
  end
  return some
end

-- A full registry refuses what may grow it until a script has written something else. After that this script can make room.
local is_out = is_error(redis.pcall('SET', P .. ':check', int(now), 'PX', 60000))
if is_out then call('DEL', P .. ':check') end

-- After a clock was set back, moments that were kept lie too far in the future. They are cut to what they could be if they
-- were new.
local function clamp(key, to, each)
  for _, member in ipairs(bounded(call('ZRANGEBYSCORE', key, '(' .. int(to), '+inf', 'LIMIT', 0, MAX_CLAMPED), MAX_CLAMPED)) do
    call('ZADD', key, int(to), member)
    if each then each(member) end
  end
end
for _, index in ipairs({ ':up', ':stale', ':down' }) do
  clamp(P .. index, now, function(node)
    local key = P .. ':node:' .. node
    if call('HEXISTS', key, 'beat') == 1 then call('HSET', key, 'beat', int(now)) end
  end)
end
clamp(P .. ':expiries', now + RESERVATION)
clamp(P .. ':places', now + PLACE)
clamp(P .. ':ended', now)
clamp(P .. ':sick', now + math.max(MAX_PROBE_PAUSE, RESERVATION), function(member)
  local renderer, node = string.match(member, '^(%a+) (.*)$')
  local field = 'h' .. (renderer or '')
  local h = read_health(call('HGET', P .. ':node:' .. (node or ''), field))
  if is_avoided(h) then
    h.next_probe = now
    call('HSET', P .. ':node:' .. node, field, write_health(h))
    place(node)
  else
    call('ZREM', P .. ':sick', member)
  end
end)

if expire_beats(MAX_BEATS) >= MAX_BEATS then is_more = true end

-- Without events nothing else shows that the streams, their number or the floor are damaged.
repair_streams()
set_floor()

-- Where one of the sets by availability was lost, its nodes would keep their availability for ever. Some are checked each time.
for _, node in ipairs(call('SRANDMEMBER', P .. ':names', 16)) do
  local h = call('HMGET', P .. ':node:' .. node, 'avail', 'beat')
  local set = h[1] == 'up' and ':up' or h[1] == 'stale' and ':stale' or h[1] == 'down' and ':down'
  if set and not call('ZSCORE', P .. set, node) then call('ZADD', P .. set, int(math.min(count_of(h[2]) or now, now)), node) end
end

-- Nodes that are gone: their spawns are lost.
local gone = silent_since() > now - DOWN and {}
  or call('ZRANGEBYSCORE', P .. ':stale', '-inf', now - DOWN, 'LIMIT', 0, 32)
for _, node in ipairs(of_some(bounded(gone, 32))) do
  call('ZADD', P .. ':down', call('ZSCORE', P .. ':stale', node), node)
  call('ZREM', P .. ':stale', node)
  call('HSET', P .. ':node:' .. node, 'avail', 'down')
  publish(now, 'node.down', node, '', '{}')
  local held = call('HGETALL', P .. ':held:' .. node)
  for h = 1, #held, 2 do
    local spawn = held[h]
    local was = call('HMGET', P .. ':spawn:' .. spawn, 'state', 'events')
    if string.sub(held[h + 1], 1, 1) == 'A' and was[1] and was[1] ~= 'exited' and was[1] ~= 'lost' then
      disown(held[h + 1], spawn)
      publish_spawn(now, 'spawn.lost', node, spawn, '{}', was[2], 'state', 'lost')
    end
  end
  -- Nothing is left there to wait for. A node without slots in use was published as drained before.
  if #held > 0 and call('HGET', P .. ':node:' .. node, 'elig') == 'draining' then
    publish(now, 'node.drained', node, '', '{}')
  end
end

-- Reservations that no agent has confirmed. A call that would start them may still be under way, so the agent must know.
for _, member in ipairs(bounded(call('ZRANGEBYSCORE', P .. ':expiries', '-inf', now, 'LIMIT', 0, MAX_EXPIRED), MAX_EXPIRED)) do
  call('ZREM', P .. ':expiries', member)
  local spawn, node = string.sub(member, 1, 36), string.sub(member, 37)
  local hold = call('HGET', P .. ':held:' .. node, spawn)
  if hold and string.sub(hold, 1, 1) ~= 'A' then
    -- Not abandoned: its caller may have been answered while the agent was cut off from the registry.
    call('SADD', P .. ':expired:' .. node, spawn)
    call('PEXPIRE', P .. ':expired:' .. node, int(FORGET))
    free(node, spawn)
  end
end

-- Places in line that have lapsed.
local left = false
local lapsed = silent_since() > now - PLACE and {}
  or call('ZRANGEBYSCORE', P .. ':places', '-inf', now, 'LIMIT', 0, MAX_EXPIRED)
for _, ticket in ipairs(bounded(lapsed, MAX_EXPIRED)) do
  left = leave(ticket) or left
end
if left then wake_line() end

-- Records of ended spawns, the oldest first. Of several front doors the one that keeps them longest counts, as long as it is there.
local SAID_FOR = 60000
local function longest_kept()
  local keeps, longest = P .. ':keeps', HISTORY
  if is_damage(redis.pcall('ZADD', keeps, int(now), int(HISTORY))) then call('DEL', keeps) end
  local said = call('ZRANGE', keeps, 0, -1, 'WITHSCORES')
  for s = 1, #said, 2 do
    local kept, at = count_of(said[s]), tonumber(said[s + 1])
    -- While the registry was away, or no front door was there, none could say it.
    if kept and now - math.max(at, silent_since()) <= SAID_FOR then
      longest = math.max(longest, kept)
    else
      call('ZREM', keeps, said[s])
    end
    if at > now then redis.pcall('ZADD', keeps, int(now), said[s]) end
  end
  return longest
end
local function drop(spawn)
  local of = call('HMGET', P .. ':spawn:' .. spawn, 'node', 'owner')
  call('DEL', P .. ':spawn:' .. spawn)
  call('ZREM', P .. ':ended', spawn)
  call('ZREM', P .. ':spawns', spawn)
  if of[1] then call('ZREM', P .. ':spawns:' .. of[1], spawn) end
  if of[2] and of[2] ~= '' then call('ZREM', P .. ':spawns-of:' .. of[2], spawn) end
end
local keep = longest_kept()
local room = MAX_DROPPED
local function drop_all(spawns)
  for _, spawn in ipairs(spawns) do drop(spawn) end
  room = room - #spawns
  if room <= 0 then is_more = true end
end
drop_all(call('ZRANGEBYSCORE', P .. ':ended', '-inf', now - keep, 'LIMIT', 0, room))
local over = math.min(call('ZCARD', P .. ':ended') - HISTORY_COUNT, room)
if over > 0 then drop_all(call('ZRANGE', P .. ':ended', 0, over - 1)) end
-- Whether this record and those that ended after it are too many bytes; nil when that is not known of it.
local sum = count_of(call('GET', P .. ':weight'))
local function is_heavy(spawn)
  local weight, weighed = unpack(call('HMGET', P .. ':spawn:' .. spawn, 'weight', 'weighed'))
  weight, weighed = count_of(weight), count_of(weighed)
  if not (sum and weight and weighed) then return nil end
  return sum - weighed + weight > HISTORY_BYTES
end
if room > 0 then
  -- Records without their bytes go with the next one that must go: they are older.
  local eldest, upto = call('ZRANGE', P .. ':ended', 0, room - 1), 0
  for n, spawn in ipairs(eldest) do
    local heavy = is_heavy(spawn)
    if heavy == false then break elseif heavy then upto = n end
  end
  drop_all({ unpack(eldest, 1, upto) })
end
-- The past gives way to the present.
if is_out and room > 0 then drop_all(call('ZRANGE', P .. ':ended', 0, room - 1)) end
if repair_ended() then is_more = true end

-- Operators' orders. Their number is bounded where they are added.
for _, orders in ipairs({ P .. ':audit', P .. ':audit:spawns' }) do
  if is_damage(redis.pcall('XTRIM', orders, 'MINID', int(math.max(now - keep, 0)))) then call('DEL', orders) end
end

-- Nodes that have been down for long.
for _, node in ipairs(of_some(bounded(call('ZRANGEBYSCORE', P .. ':down', '-inf', now - FORGET, 'LIMIT', 0, 16), 16))) do
  drop_node(node, '{}')
end
return done(is_more and 1 or 0)
