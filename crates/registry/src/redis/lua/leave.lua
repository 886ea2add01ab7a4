-- Takes a place in line away. Returns whether there was one.
local function leave(ticket)
  if call('ZREM', P .. ':places', ticket) == 0 then return false end
  call('ZREM', P .. ':line', ticket)
  call('HDEL', P .. ':avoids', ticket)
  for _, queue in ipairs(call('SMEMBERS', P .. ':queues:' .. ticket)) do
    call('ZREM', queue, ticket)
  end
  call('DEL', P .. ':queues:' .. ticket, P .. ':waiter:' .. ticket)
  return true
end
