-- Pings on their way to subscribers, see pings.rs. `pings` is a stream of what came with one heartbeat, numbered as events are: n (the
-- node), t (when) and p ("<spawn> <ms>" and so on). Front doors that have subscribers keep pings:all there, or pings:of:<n>.
local PINGS_KEPT = 1000

-- An agent whose user of Redis is that of the release before this one may not read these keys.
local function are_pings_wanted(node)
  local wanted = redis.pcall('EXISTS', P .. ':pings:all', P .. ':pings:of:' .. node)
  return type(wanted) == 'number' and wanted > 0
end

-- seq: a number that was taken for it; text: as in the stream.
local function relay_pings(node, seq, text)
  local added = redis.pcall('XADD', P .. ':pings', 'MAXLEN', '~', PINGS_KEPT, int(seq) .. '-0', 'n', node, 't', int(now), 'p', text)
  if type(added) == 'string' then
    redis.pcall('PEXPIRE', P .. ':pings', 60000)
  else
    -- Damaged: nothing in it is worth keeping.
    redis.pcall('DEL', P .. ':pings')
  end
end
