-- A node gives spawns sooner or later than before: among nodes of the same load it stands elsewhere now.
local function supply_changed(node, kind, was, supply)
  for _, renderer in ipairs({ 'csr', 'ssr' }) do
    local open, news = P .. ':open:' .. kind .. ':' .. renderer, handicap(renderer, supply) - handicap(renderer, was)
    local score = news ~= 0 and call('ZSCORE', open, node)
    if score then call('ZADD', open, score + news, node) end
  end
end
