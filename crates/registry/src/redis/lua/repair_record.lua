-- Repairs the fields in which the record of a listed spawn differs from what its agent reports. No event, as nothing happened.
local function repair_record(id, record, had, owner, endpoint, renderer, started, gpu, labels)
  local from = tonumber(had[9] or '')
  -- Ages are rounded.
  local is_started = started == '' or (from and math.abs(from - started) < 5000)
  if not count_of(had[4]) then
    -- Events count from where the record's history ends.
    local count = 0
    while call('HEXISTS', record, 'e' .. (count + 1)) == 1 do count = count + 1 end
    call('HSET', record, 'events', count)
  end
  if had[5] == owner and had[7] == endpoint and had[8] == renderer and had[15] == gpu and had[16] == labels and is_started then return end
  call('HSET', record, 'owner', owner, 'endpoint', endpoint, 'renderer', renderer, 'gpu', gpu, 'labels', labels)
  if (had[5] or '') ~= '' and had[5] ~= owner then call('ZREM', P .. ':spawns-of:' .. had[5], id) end
  if not is_started then call('HSET', record, 'started', started) end
end
