-- Takes in changes without a heartbeat, the report that a farm makes most. Whatever else is to be done with it than to apply them, nothing
-- is done, and report.lua does all. A repeated report changes nothing.
-- ARGV: node, epoch, last change known to be accepted, digest before the changes or '', digest after them or '', count of changes, and for
--   each: serial, age, fields of the spawn as in report.lua.
-- Returns {'report'} · what report.lua returns to an accepted report.
local SPAWN_FIELDS = 19
local node, epoch, accepted, digest_before, digest_after = unpack(ARGV, A + 1, A + 5)
accepted = accepted + 0
local key, held = P .. ':node:' .. node, P .. ':held:' .. node
local was = call('HMGET', key, 'epoch', 'serial', 'digest', 'elig', 'drain', 'gen', 'gused', 'kind', 'hcsr', 'hssr')
local eligibility, drain, kind = was[4], was[5] or '', was[8] or ''
local serial = count_of(was[2])
if was[1] ~= epoch or not serial or serial < accepted or not count_of(was[7])
  or not (eligibility == 'eligible' or eligibility == 'cordoned' or eligibility == 'draining')
then
  return { 'report' }
end

local freed, slots_changed, has_judged, full, holds, pings = false, false, false, false, nil, nil
