-- Takes in the heartbeat of a node on which nothing has changed: compares what both sides agree on, has a part of what is held looked at,
-- and notes that the node lives. Its cost does not grow with the number of spawns. It repairs nothing: whatever differs, the agent sends
-- its whole list, and report.lua repairs all. docs/internals/decisions says why, and what is found when.
--
-- Three scripts begin with this file and end with alive.lua: between them stands node_check.lua, spawn_check.lua, or nothing. They are the
-- scripts that a large farm runs most, so they are straight lines: a function costs each run that it is in, called or not.
-- ARGV: node, epoch, last accepted change, digest, count of spawns, count of those with a GPU, number of the agent's last order, load,
--   supply, GPUs, age of the oldest last ping or '' and then the late spawns with spaces before them, late spawns and the ages of their
--   pings, pings and their ages: each as one text with spaces; then what the check between needs.
-- Returns {'differs', what} · {'ok'}, where the node is eligible by that order and the agent need not know more · {'ok', eligibility, drain,
--   now, order's number, 1 where pings are wanted, renderers that fail there, count of abandoned, abandoned …, expired …}.
local node = ARGV[1]
local key, held = P .. ':node:' .. node, P .. ':held:' .. node
local h = call('HMGET', key, 'epoch', 'avail', 'serial', 'digest', 'elig', 'drain', 'gen', 'gused', 'kind', 'hcsr', 'hssr', 'supply')
if h[1] ~= ARGV[2] then return { 'differs', 'unknown' } end
if h[2] ~= 'up' then return { 'differs', 'silent' } end
if h[3] ~= ARGV[3] then return { 'differs', 'changes' } end
if h[4] ~= ARGV[4] then return { 'differs', 'digest' } end

-- The operator's order. A drain is JSON; report.lua reads it whole.
local eligibility, drain, order, generation = h[5], h[6], h[7], ARGV[7]
local is_plain = eligibility == 'eligible' and drain == '' and order == generation
if not is_plain then
  local known = tonumber(order or '')
  local is_order = (eligibility == 'eligible' or eligibility == 'cordoned' or eligibility == 'draining') and drain
    and (drain == '' or string.find(drain, '"deadline":"', 1, true) and string.find(drain, '"startedAt":"', 1, true))
  if not is_order or not known or not (known >= tonumber(generation) and known < 9007199254740992) then
    return { 'differs', 'order' }
  end
  order = int(known)
end

-- What has no place of its own in the list of slots is reserved or given up: there is no telling how many of these have a GPU.
local used, gused, kind = call('HLEN', held), tonumber(h[8] or ''), h[9] or ''
local others, gpu_spawns = used - ARGV[5], ARGV[6] + 0
if others < 0 or not gused or gused < gpu_spawns or gused > gpu_spawns + others then return { 'differs', 'slots' } end

-- What no request finds the node without. One call covers five keys, of which mostly the first alone is there; it counts five times, so
-- that it cannot be mistaken for the others.
local kind_json, kindver = call('HGET', P .. ':kinds', kind), P .. ':kindver'
local abandoned, expired = P .. ':abandoned:' .. node, P .. ':expired:' .. node
local there = redis.pcall('EXISTS', kindver, kindver, kindver, kindver, kindver, abandoned, expired, P .. ':pings:all',
  P .. ':pings:of:' .. node)
-- An agent whose user of Redis is that of the release before this one may not look at all of them.
if type(there) ~= 'number' then there = call('EXISTS', kindver) * 6 end
if not kind_json or there < 5 or call('SISMEMBER', P .. ':names', node) == 0 then return { 'differs', 'index' } end

local hcsr, hssr, was_supply = h[10], h[11], h[12]
local csr_fails = hcsr and string.sub(hcsr, 1, 1) == 'f'
local ssr_fails = hssr and string.sub(hssr, 1, 1) == 'f'
