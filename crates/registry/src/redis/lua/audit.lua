-- ## audit
-- Keeps an operator's order, and what came of it. A repeated call changes nothing.
-- ARGV: an id of the entry, the age in ms, the order as JSON, the most entries to keep. Returns nothing.
local key, id, age, order, most = P .. ':audit', ARGV[A + 1], tonumber(ARGV[A + 2]), ARGV[A + 3], ARGV[A + 4]

-- An answer that was lost is followed by the same call, a moment later.
local newest = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 64)
if is_damage(newest) then
  call('DEL', key)
  newest = {}
end
for _, entry in ipairs(newest) do
  if entry[2][2] == id then return end
end
-- Entries are numbered by the clock in milliseconds. After it was set back they go on from the last one.
call('XADD', key, 'MAXLEN', most, '*', 'i', id, 't', int(now - age), 'd', order)
