-- ## audit
-- Keeps an operator's order, and what came of it. A repeated call changes nothing. Orders to nodes and those to spawns have a stream each, with a
-- bound each, and are numbered together.
-- ARGV: an id of the entry, the age in ms, the order as JSON, the most entries to keep, 'spawn' or 'node'. Returns nothing.
local id, age, order, most = ARGV[A + 1], tonumber(ARGV[A + 2]), ARGV[A + 3], ARGV[A + 4]
local NODES, SPAWNS = P .. ':audit', P .. ':audit:spawns'
local key, other = NODES, SPAWNS
if ARGV[A + 5] == 'spawn' then key, other = SPAWNS, NODES end

local function newest(stream, count)
  local entries = redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', count)
  if is_damage(entries) then
    call('DEL', stream)
    entries = {}
  end
  return entries
end

-- An answer that was lost is followed by the same call, a moment later.
local before = newest(key, 64)
for _, entry in ipairs(before) do
  if entry[2][2] == id then return end
end

-- Entries are numbered by the clock in milliseconds. After it was set back they go on from the last one.
local ms, n = now, 0
for _, last in ipairs({ before[1] or false, newest(other, 1)[1] or false }) do
  if last then
    local last_ms, last_n = string.match(last[1], '^(%d+)-(%d+)$')
    last_ms, last_n = tonumber(last_ms), tonumber(last_n)
    if last_ms > ms or (last_ms == ms and last_n >= n) then ms, n = last_ms, last_n + 1 end
  end
end
local place = int(ms) .. '-' .. int(n)
local added = redis.pcall('XADD', key, 'MAXLEN', most, place, 'i', id, 't', int(now - age), 'd', order)
-- A stream goes on from an entry that it has dropped as well.
if is_damage(added) then call('XADD', key, 'MAXLEN', most, '*', 'i', id, 't', int(now - age), 'd', order) end
