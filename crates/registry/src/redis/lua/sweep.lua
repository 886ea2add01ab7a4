-- Does what is due by time, a bounded amount of it.
-- ARGV: none. Returns nothing.

-- After a clock was set back, moments that were kept lie too far in the future. They are cut to what they could be if they
-- were new.
local function clamp(key, to, each)
  for _, member in ipairs(call('ZRANGEBYSCORE', key, '(' .. int(to), '+inf', 'LIMIT', 0, 256)) do
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
  if h and h.failing then
    h.next_probe = now
    call('HSET', P .. ':node:' .. node, field, write_health(h))
    place(node)
  else
    call('ZREM', P .. ':sick', member)
  end
end)

expire_beats(256)

-- Where one of the sets by availability was lost, its nodes would keep their availability for ever. Some are checked each time.
for _, node in ipairs(call('SRANDMEMBER', P .. ':names', 16)) do
  local h = call('HMGET', P .. ':node:' .. node, 'avail', 'beat')
  local set = h[1] == 'up' and ':up' or h[1] == 'stale' and ':stale' or h[1] == 'down' and ':down'
  if set and not call('ZSCORE', P .. set, node) then call('ZADD', P .. set, int(math.min(count_of(h[2]) or now, now)), node) end
end

-- Nodes that are gone: their spawns are lost.
local gone = silent_since() > now - DOWN and {}
  or call('ZRANGEBYSCORE', P .. ':stale', '-inf', now - DOWN, 'LIMIT', 0, 32)
for _, node in ipairs(gone) do
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
for _, member in ipairs(call('ZRANGEBYSCORE', P .. ':expiries', '-inf', now, 'LIMIT', 0, 256)) do
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
  or call('ZRANGEBYSCORE', P .. ':places', '-inf', now, 'LIMIT', 0, 256)
for _, ticket in ipairs(lapsed) do
  left = leave(ticket) or left
end
if left then wake_line() end

-- Records of ended spawns, the oldest first.
local function drop(spawn)
  local of = call('HMGET', P .. ':spawn:' .. spawn, 'node', 'owner')
  call('DEL', P .. ':spawn:' .. spawn)
  call('ZREM', P .. ':ended', spawn)
  call('ZREM', P .. ':spawns', spawn)
  if of[1] then call('ZREM', P .. ':spawns:' .. of[1], spawn) end
  if of[2] and of[2] ~= '' then call('ZREM', P .. ':spawns-of:' .. of[2], spawn) end
end
for _, spawn in ipairs(call('ZRANGEBYSCORE', P .. ':ended', '-inf', now - HISTORY, 'LIMIT', 0, 1000)) do drop(spawn) end
local over = call('ZCARD', P .. ':ended') - HISTORY_COUNT
if over > 0 then
  for _, spawn in ipairs(call('ZRANGE', P .. ':ended', 0, math.min(over, 5000) - 1)) do drop(spawn) end
end
repair_ended()

-- Nodes that have been down for long.
for _, node in ipairs(call('ZRANGEBYSCORE', P .. ':down', '-inf', now - FORGET, 'LIMIT', 0, 16)) do
  drop_node(node, '{}')
end
return done()
