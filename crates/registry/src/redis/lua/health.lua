-- Health of a node for one renderer: the state machine of model::Health, number for number (a test drives both).
-- node:<n> keeps it in the fields hcsr and hssr, as state|failures|successes|since|last|next probe|failed probes|hold|reason
-- with the state o (ok) or f (failing). Without a failure on record the field is absent.
local FAILURES_UNTIL_FAILING, SUCCESSES_UNTIL_OK = 2, 3
local FIRST_PROBE_PAUSE, MAX_PROBE_PAUSE = 1000, 60000
local FAILURE_MEMORY, MAX_HOLD, ONE_FAILURE = 600000, 3000, 500

local function healthy()
  return { failing = false, failures = 0, successes = 0, since = 0, last = 0, next_probe = 0, failed_probes = 0, hold = 0,
    reason = '' }
end

-- Reads a field; nil when it is absent or not of that form.
local function read_health(text)
  if not text then return nil end
  local n = '(%d+)|'
  local state, failures, successes, since, last, next_probe, failed_probes, hold, reason =
    string.match(text, '^([of])|' .. n .. n .. n .. n .. n .. n .. n .. '(.*)$')
  if not state then return nil end
  return { failing = state == 'f', failures = tonumber(failures), successes = tonumber(successes),
    since = tonumber(since), last = tonumber(last), next_probe = tonumber(next_probe),
    failed_probes = tonumber(failed_probes), hold = tonumber(hold), reason = reason }
end

-- The field for it; nil when nothing is on record.
local function write_health(h)
  if not h.failing and h.failures == 0 then return nil end
  return string.format('%s|%.0f|%.0f|%.0f|%.0f|%.0f|%.0f|%.0f|%s', h.failing and 'f' or 'o', h.failures, h.successes,
    h.since, h.last, h.next_probe, h.failed_probes, h.hold, h.reason)
end

local function reset_health(h)
  for name, value in pairs(healthy()) do h[name] = value end
end

local function is_failing(text)
  local h = read_health(text)
  return h ~= nil and h.failing
end

-- Whether the node is failing, or on probation after an early end. h: may be nil.
local function is_avoided(h) return h ~= nil and (h.failing or h.hold > 0) end

-- The pause after so many probes that failed.
local function probe_pause(failed_probes, random)
  local longest = math.min(FIRST_PROBE_PAUSE * 2 ^ math.min(failed_probes, 16), MAX_PROBE_PAUSE)
  return math.floor(longest * (0.9 - 0.2 * math.min(math.max(random, 0), 1)))
end

-- A start failed, or a server ended `lived` ms after it was ready (nil when it never was).
local function health_fail(h, at, reason, conclusive, lived, random)
  if not h.failing and at - h.last > FAILURE_MEMORY then h.failures = 0 end
  local is_new = at - h.last >= ONE_FAILURE
  h.failures, h.successes, h.last, h.reason = h.failures + 1, 0, at, reason
  h.hold = lived and math.max(math.min(lived * 2, MAX_HOLD), 1) or 0
  if not h.failing and not conclusive and h.failures < FAILURES_UNTIL_FAILING then
    h.next_probe = at + probe_pause(0, random)
    return
  end
  if h.failing and not is_new then
    -- The pause that has begun goes on.
    h.next_probe = math.min(h.next_probe, at + probe_pause(h.failed_probes, random))
    return
  end
  h.failed_probes = h.failing and h.failed_probes + 1 or 0
  h.next_probe = at + probe_pause(h.failed_probes, random)
  if not h.failing then h.failing, h.since = true, at end
end

-- A server became ready, and where it is a probe has lived for the hold.
local function health_succeed(h, at)
  if not h.failing then
    -- A server that was ready a moment ago may still end early.
    if math.max(at - h.last, 0) >= h.hold then reset_health(h) end
    return
  end
  h.successes, h.failed_probes = h.successes + 1, 0
  if h.successes >= SUCCESSES_UNTIL_OK then
    reset_health(h)
  else
    h.next_probe = at
  end
end

-- A start said nothing of the node: the next may be a probe.
local function health_release(h, at)
  if is_avoided(h) then h.next_probe = at end
end

-- Its agent has a new life.
local function health_renew(h, at)
  h.failed_probes = 0
  health_release(h, at)
end
