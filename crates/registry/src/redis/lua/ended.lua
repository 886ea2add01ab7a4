-- Checks some ended spawns at random, and many when an index has lost one. No heartbeat lists them, so nothing else repairs
-- them. Returns whether it had.
local function repair_ended()
  local function look(count)
    local lacked = 0
    for _, spawn in ipairs(call('ZRANDMEMBER', P .. ':ended', count)) do
      local of = call('HMGET', P .. ':spawn:' .. spawn, 'node', 'owner', 'e1')
      local seq = of[3] and string.match(of[3], '^%d+')
      if of[1] and seq then lacked = lacked + index_spawn(of[1], spawn, of[2] or '', seq) end
    end
    return lacked
  end
  return look(8) > 0 and look(200) > 0
end
