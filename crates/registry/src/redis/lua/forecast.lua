-- Says what a reserve would come to, and takes nothing.
-- ARGV: see choice.lua; the ticket is ''.
-- Returns {'slot', node, 'good' | 'probe' | 'last'} · {'full'} · {'none', …} as shortage says · and what choice.lua returns. After
--   the answer's own words come '' and the suitable kinds whose free slots are promised to callers in line.
local answer = { 'slot', node, standing }
if not node then
  expire_some()
  answer = shortage()
end
answer[#answer + 1] = ''
-- What was found out during the choice, without the nodes to avoid, holds no more.
overtakes = {}
for _, kind in ipairs(kinds) do
  if waiting and is_overtaking(kind) then answer[#answer + 1] = kind end
end
return done(answer)
