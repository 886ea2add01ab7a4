-- Says what nodes have for one more spawn. load_for decides here as it does in the indexes.
-- ARGV: nodes.
-- Returns for each node {node, kind, eligibility, availability, taken slots, slots, taken GPU slots, GPU slots or -1 where they do
--   not limit it, and for each renderer: room, and '' or, where it is failing, f and the reason}, the fields of one node after those
--   of another. Room is the load, 'full', 'gpus', 'closed' or 'unreadable' where the record is broken, or '' where the renderer is
--   not offered. A node that is not known is left out.
local answer = {}
local function add(text) answer[#answer + 1] = text and tostring(text) or '' end

for n = A + 1, #ARGV do
  local node = ARGV[n]
  local h, used = placing(node), call('HLEN', P .. ':held:' .. node)
  local is = call('HMGET', P .. ':node:' .. node, 'elig', 'avail')
  if h[1] then
    add(node)
    add(h[1])
    add(is[1])
    add(is[2] == 'up' and is_late(node) and 'stale' or is[2])
    add(used)
    add(h[4])
    add(h[6])
    add(h[5])
    -- Of a closed node it is of interest, too, what it would have.
    if is[1] ~= 'eligible' or is[2] ~= 'up' then h[7] = '1' end
    for r, renderer in ipairs(RENDERERS) do
      local load, lack = load_for(renderer, h, used)
      if h[r + 1] ~= '1' then
        add('')
      else
        add(load and string.format('%.17g', load) or lack)
      end
      local health = h[r + 1] == '1' and read_health(h[r + 7])
      add(health and health.failing and 'f' .. health.reason)
    end
  end
end
return done(answer)
