-- Hands the pings of a heartbeat on, where they are wanted. Returns whether they are.
local function bring_pings(node, text)
  if not are_pings_wanted(node) then return false end
  local seq = text ~= '' and tonumber(call('GET', P .. ':seq') or '')
  -- Where the number is lost or damaged, events.lua finds another; these pings are dropped.
  if seq and seq >= 0 and seq < now_us + 3600000000 then
    seq = math.max(seq + 1, now_us)
    call('SET', P .. ':seq', int(seq))
    local pings = {}
    for id, ago in string.gmatch(text, '(%S+) (%d+)') do pings[#pings + 1] = id .. ' ' .. int(now - ago) end
    relay_pings(node, seq, table.concat(pings, ' '))
  end
  return true
end
