-- Wakes those who wait for a keyed answer or stand in line.
local function wake()
  local seq = next_seq()
  local added = redis.pcall('XADD', WAKEUPS, 'MAXLEN', 16, seq .. '-0', 'n', '1')
  if type(added) ~= 'table' then return end
  if is_damage(added) then
    mend_streams('recover', WAKEUPS, last_seq)
    seq = next_seq()
  end
  call('XADD', WAKEUPS, 'MAXLEN', 16, seq .. '-0', 'n', '1')
end
