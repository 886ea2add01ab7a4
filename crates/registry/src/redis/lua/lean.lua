-- Put before scripts that run once a second for every node: the prefix and the clock, without the rest of core.lua. Such a script
-- publishes no event. KEYS[1] is the farm's prefix; ARGV are the script's own arguments.
local P = KEYS[1]
local call = redis.call
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

local function int(n) return string.format('%.0f', n) end
