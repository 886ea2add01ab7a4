-- Reads a part of the line: places that have not lapsed, in the order of their numbers.
-- ARGV: the number to read after, most places to read.
-- Returns {the number to go on after, or '' at the end, then for each place: ticket, waiter or '', queues, one a line}.
local most = tonumber(ARGV[A + 2])
local part = call('ZRANGEBYSCORE', P .. ':line', '(' .. ARGV[A + 1], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
local answer = { #part == 2 * most and part[#part] or '' }
local prefix = #P + #':wait:'
for i = 1, #part, 2 do
  local ticket = part[i]
  if is_kept(ticket) then
    local queues = call('SMEMBERS', P .. ':queues:' .. ticket)
    for q, queue in ipairs(queues) do queues[q] = string.sub(queue, prefix + 1) end
    answer[#answer + 1] = ticket
    answer[#answer + 1] = call('GET', P .. ':waiter:' .. ticket) or ''
    answer[#answer + 1] = table.concat(queues, '\n')
  end
end
return answer
