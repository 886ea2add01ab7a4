-- What outcomes of starts do to a node: its health, where it stands, and the events of it.

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
  local before, avoided = { csr.failing, ssr.failing }, { is_avoided(csr), is_avoided(ssr) }
  change(csr, ssr, h[2] == '1', h[3] == '1')
  for i, health in ipairs({ csr, ssr }) do
    local renderer = RENDERERS[i]
    local text = write_health(health)
    if text then
      call('HSET', key, 'h' .. renderer, text)
    elseif h[i + 3] then
      call('HDEL', key, 'h' .. renderer)
    end
    if avoided[i] and not is_avoided(health) then recovered(h[1], renderer, node) end
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

-- A server has ended by a failure soon after it was ready. exit: as JSON, with this reason.
local function ended_early(node, renderer, lived, reason, exit)
  local ok, what = pcall(cjson.decode, exit)
  if not ok or type(what) ~= 'table' or what.reason ~= reason then return end
  local function said(name, kind) return type(what[name]) == kind and what[name] end
  local text = said('text', 'string') or said('signal', 'string')
    or said('code', 'number') and 'exit code ' .. int(what.code) or reason
  local why = string.format('ended %.1f s after it was ready: %s', lived / 1000, text)
  node_failed(node, renderer, why, false, false, lived, (now_us % 1000) / 1000)
end
