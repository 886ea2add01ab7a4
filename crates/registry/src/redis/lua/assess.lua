-- Says what nodes have for one more spawn. load_for decides here as it does in the indexes.
-- ARGV: nodes.
-- Returns for each node, in one text with \31 between them: node, kind, eligibility, availability, taken slots, slots, taken GPU slots,
--   GPU slots or -1 where they do not limit it, and for each renderer: room, and '' or, where it is failing or on probation, f and the reason. Room is
--   the load, 'full', 'gpus', 'closed' or 'unreadable' where the record is broken, or '' where the renderer is not offered. The last two
--   are the steps of the handicap of each renderer. A node that is not known is left out.
local answer = {}
local FIELDS = { unpack(PLACING) }
for _, more in ipairs({ 'elig', 'avail', 'beat' }) do FIELDS[#FIELDS + 1] = more end
local since = silent_since()

local function room_and_health(renderer, offered, h, used, text)
  if offered ~= '1' then return '', '' end
  local load, lack = load_for(renderer, h, used)
  local health = text and read_health(text)
  -- A control character would end the field.
  local failing = health and is_avoided(health) and 'f' .. string.gsub(health.reason, '%c', ' ') or ''
  return load and string.format('%.17g', load) or lack, failing
end

for n = A + 1, #ARGV do
  local node = ARGV[n]
  local h = call('HMGET', P .. ':node:' .. node, unpack(FIELDS))
  if h[1] then
    local used, eligibility, availability, beat = call('HLEN', P .. ':held:' .. node), h[12], h[13], tonumber(h[14])
    -- As is_late judges, by the record alone.
    if availability == 'up' and (not beat or (beat <= now - STALE and since <= now - STALE)) then availability = 'stale' end
    -- Of a closed node it is of interest, too, what it would have.
    if eligibility ~= 'eligible' or h[13] ~= 'up' then h[7] = '1' end
    local csr, csr_fails = room_and_health('csr', h[2], h, used, h[8])
    local ssr, ssr_fails = room_and_health('ssr', h[3], h, used, h[9])
    answer[#answer + 1] = table.concat({ node, h[1], eligibility or '', availability or '', used, h[4] or '', h[6] or '', h[5] or '',
      csr, csr_fails, ssr, ssr_fails, handicap_steps('csr', h[11]), handicap_steps('ssr', h[11]) }, '\31')
  end
end
return done(answer)
