-- Looks at the record, the slot and the indexes of one spawn of a heartbeat's node. Stands after keepalive.lua.
-- ARGV: after those of keepalive.lua, id, sum of the record, owner or '', what the agent knows (t tags, o the request, c viewer came,
--   d viewer left, l end of life, s its server's id), ms since it was started.
local id, says, knows = ARGV[14], ARGV[16], ARGV[17]
local r = call('HMGET', P .. ':spawn:' .. id, 'state', 'renderer', 'endpoint', 'gpu', 'labels', 'owner', 'started', 'events', 'tags',
  'origin', 'connected', 'disconnected', 'expires', 'server')
if not (r[1] and r[2] and r[3] and r[4] and r[5]) then return { 'differs', 'record' } end
local owner, text = r[6] or '', r[1] .. '\n' .. r[2] .. '\n' .. r[3] .. '\n' .. r[4] .. '\n' .. r[5]
local is_right = says == '' or owner == says
if knows ~= '' then
  if string.find(knows, 't', 1, true) then text = text .. '\n' .. (r[9] or '') end
  if string.find(knows, 'o', 1, true) and string.sub(r[10] or '', 1, 1) ~= '{' then is_right = false end
  if string.find(knows, 'c', 1, true) and (not tonumber(r[11] or '')
    or (tonumber(r[12] or '') ~= nil) ~= (string.find(knows, 'd', 1, true) ~= nil)) then is_right = false end
  if string.find(knows, 'l', 1, true) and not tonumber(r[13] or '') then is_right = false end
  if string.find(knows, 's', 1, true) and (r[14] or '') == '' then is_right = false end
end
-- As repair_record in spawns.lua.
if not is_right or not tonumber(r[8] or '') or math.abs((tonumber(r[7] or '') or 0) - (now - ARGV[18])) >= 5000
  or redis.sha1hex(text) ~= ARGV[15]
then
  return { 'differs', 'record' }
end
if call('HGET', held, id) ~= (r[4] ~= '' and 'Ag' or 'A-') .. owner then return { 'differs', 'slots' } end
if not call('ZSCORE', P .. ':spawns', id) or not call('ZSCORE', P .. ':spawns:' .. node, id)
  or owner ~= '' and (not call('ZSCORE', P .. ':spawns-of:' .. owner, id) or call('HEXISTS', P .. ':owned:' .. owner, id) == 0)
then
  return { 'differs', 'index' }
end
