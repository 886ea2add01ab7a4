-- What outcomes of starts do to a node: its health, where it stands, and the events of it.

-- A time as RFC 3339 in UTC, as Timestamp in the model crate writes it. Days are counted in eras of 400 years from
-- 0000-03-01, so that the leap day comes last.
--
-- Why dates and JSON are written here and not in Rust: an event and a drain are stored as finished JSON, which followers of
-- the release before this one read as it is. Their times are Redis' own clock and the state machine's results, which no
-- client knows before the script runs. Storing raw numbers for readers to format would break those followers; asking for
-- the time first would cost a second round trip, and the step would not be atomic. What a client does know (labels, exits,
-- descriptions, the data of a change, an operator's reason) it encodes itself, and the scripts pass it on unread.
local function rfc3339(ms)
  local days, rest = math.floor(ms / 86400000), ms % 86400000
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(rest / 3600000),
    math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

-- A node's health as JSON, out of that of its renderers: NodeHealth in the model crate.
local function health_json(csr, ssr)
  local worst, prefix = csr, ''
  if csr.failing and ssr.failing then
    if ssr.last > csr.last then worst = ssr end
  elseif csr.failing then
    prefix = 'csr: '
  elseif ssr.failing then
    worst, prefix = ssr, 'ssr: '
  else
    return '{"state":"ok"}'
  end
  return '{"state":"failing","reason":' .. cjson.encode(prefix .. worst.reason) .. ',"since":"' .. rfc3339(worst.since)
    .. '","failures":' .. int(worst.failures) .. ',"nextProbeAt":"' .. rfc3339(worst.next_probe) .. '"}'
end

-- Whether both renderers failed by one and the same failure: then its cause is the node's, and a success counts for both.
local function is_shared(csr, ssr)
  return csr.failing and ssr.failing and csr.last == ssr.last and csr.reason == ssr.reason
end

-- Changes a node's health by `change`, which gets that of each renderer and whether the node offers it.
local function change_health(node, change)
  local key = P .. ':node:' .. node
  local h = call('HMGET', key, 'kind', 'csr', 'ssr', 'hcsr', 'hssr')
  if not h[1] then return end
  local csr, ssr = read_health(h[4]) or healthy(), read_health(h[5]) or healthy()
  local before = { csr.failing, ssr.failing }
  change(csr, ssr, h[2] == '1', h[3] == '1')
  for i, health in ipairs({ csr, ssr }) do
    local renderer = RENDERERS[i]
    local text = write_health(health)
    if text then
      call('HSET', key, 'h' .. renderer, text)
    elseif h[i + 3] then
      call('HDEL', key, 'h' .. renderer)
    end
    if before[i] and not health.failing then recovered(h[1], renderer, node) end
  end
  place(node)
  local was, is = before[1] or before[2], csr.failing or ssr.failing
  if was ~= is then
    publish(now, is and 'node.failing' or 'node.recovered', node, '', '{"health":' .. health_json(csr, ssr) .. '}')
  end
end

local function node_failed(node, renderer, reason, conclusive, whole_node, lived, random)
  change_health(node, function(csr, ssr, has_csr, has_ssr)
    if renderer == 'csr' or whole_node and has_csr then health_fail(csr, now, reason, conclusive, lived, random) end
    if renderer == 'ssr' or whole_node and has_ssr then health_fail(ssr, now, reason, conclusive, lived, random) end
  end)
end

local function node_succeeded(node, renderer)
  change_health(node, function(csr, ssr)
    local both = is_shared(csr, ssr)
    local own, other = csr, ssr
    if renderer == 'ssr' then own, other = ssr, csr end
    local failed, failing = own.last, own.failing
    health_succeed(own, now)
    if both then
      health_succeed(other, now)
    elseif failing and not own.failing and other.failing and other.last <= failed then
      -- That failure is as old as the one that is mended. Without requests for the other renderer, no success would ever
      -- show it.
      reset_health(other)
    end
  end)
end

local function node_released(node, renderer)
  change_health(node, function(csr, ssr) health_release(renderer == 'csr' and csr or ssr, now) end)
end

-- The node's agent was restarted. Failures of a renderer that it does not offer any more are dropped.
local function node_renewed(node)
  change_health(node, function(csr, ssr, has_csr, has_ssr)
    if has_csr then health_renew(csr, now) else reset_health(csr) end
    if has_ssr then health_renew(ssr, now) else reset_health(ssr) end
  end)
end

-- A server that ends by a failure this soon after it was ready counts against its node.
local EARLY_END = 10000
local EARLY_REASONS = { ['failed'] = true, ['signaled'] = true, ['liveliness-lost'] = true }

-- A spawn has ended. ready, ended: when, in ms, or ''; exit: as JSON.
local function note_end(node, renderer, ready, ended, exit)
  ready, ended = tonumber(ready), tonumber(ended) or now
  if not ready then return end
  local lived = math.max(ended - ready, 0)
  if lived >= EARLY_END then return end
  local ok, what = pcall(cjson.decode, exit)
  if not ok or type(what) ~= 'table' or not EARLY_REASONS[what.reason] then return end
  local function said(name, kind) return type(what[name]) == kind and what[name] end
  local text = said('text', 'string') or said('signal', 'string')
    or said('code', 'number') and 'exit code ' .. int(what.code) or what.reason
  local reason = string.format('ended %.1f s after it was ready: %s', lived / 1000, text)
  node_failed(node, renderer, reason, false, false, lived, (now_us % 1000) / 1000)
end
