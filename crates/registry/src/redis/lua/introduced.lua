-- The data of a spawn's first event, whatever its state, with what a follower needs to make a record of it. Built here, as
-- the owner and the times are known only here, see outcomes.lua; Rust would have to send these members with every
-- heartbeat, and they are used once in a spawn's life at the most.
local function introduced(data, state, renderer, endpoint, gpu, labels, tags, owner, started, ready, connected, disconnected,
  server)
  local intro = '{"rendererType":"' .. renderer .. '","startedAt":"' .. rfc3339(now - started) .. '"'
  if state ~= 'ready' then intro = intro .. ',"endpoint":' .. cjson.encode(endpoint) end
  if ready ~= '' then intro = intro .. ',"readyAt":"' .. rfc3339(tonumber(ready)) .. '"' end
  if connected ~= '' then intro = intro .. ',"connectedAt":"' .. rfc3339(tonumber(connected)) .. '"' end
  if disconnected ~= '' then intro = intro .. ',"disconnectedAt":"' .. rfc3339(tonumber(disconnected)) .. '"' end
  if labels ~= '{}' then intro = intro .. ',"labels":' .. labels end
  if tags ~= '{}' then intro = intro .. ',"tags":' .. tags end
  if owner ~= '' then intro = intro .. ',"owner":' .. cjson.encode(owner) end
  if gpu ~= '' then intro = intro .. ',"gpu":' .. gpu end
  if server ~= '' then intro = intro .. ',"serverId":"' .. server .. '"' end
  return intro .. (data == '{}' and '}' or ',' .. string.sub(data, 2))
end
