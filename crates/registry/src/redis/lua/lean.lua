-- Put before scripts that run for every heartbeat or every call: the prefix and the clock, without the rest of core.lua. Such a script
-- publishes no event. KEYS[1] is the farm's prefix; ARGV are the script's own arguments.
local P, call, ARGV = KEYS[1], redis.call, ARGV
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

-- Lua would write large numbers as 1.7e+15.
local function int(n) return string.format('%d', n) end
