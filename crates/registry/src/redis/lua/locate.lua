-- Reads a spawn's record and where its node's agent is reached.
-- ARGV: spawn. Returns {fields and values of the record, when the node's spawns were last heard of or ''}, and where the node is known its
-- gRPC address.
local record = call('HGETALL', P .. ':spawn:' .. ARGV[A + 1])
local node = ''
for i = 1, #record, 2 do
  if record[i] == 'node' then node = record[i + 1] end
end
local of = call('HMGET', P .. ':node:' .. node, 'heard', 'advertise')
return { record, of[1] or '', of[2] or nil }
