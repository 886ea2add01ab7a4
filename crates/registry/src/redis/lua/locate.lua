-- Reads a spawn's record and where its node's agent is reached.
-- ARGV: spawn. Returns {fields and values of the record} · {fields and values of the record, gRPC address}.
local record = call('HGETALL', P .. ':spawn:' .. ARGV[A + 1])
local node = ''
for i = 1, #record, 2 do
  if record[i] == 'node' then node = record[i + 1] end
end
return { record, call('HGET', P .. ':node:' .. node, 'advertise') or nil }
