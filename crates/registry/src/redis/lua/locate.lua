-- Reads a spawn's record and where its node's agent is reached. Needs no clock.
-- ARGV: spawn. Returns {fields and values of the record, when the node's spawns were last heard of or ''}, and where the node is known its
-- gRPC address.
local record = redis.call('HGETALL', KEYS[1] .. ':spawn:' .. ARGV[1])
local node = ''
for i = 1, #record, 2 do
  if record[i] == 'node' then node = record[i + 1] end
end
local of = redis.call('HMGET', KEYS[1] .. ':node:' .. node, 'heard', 'advertise')
return { record, of[1] or '', of[2] or nil }
