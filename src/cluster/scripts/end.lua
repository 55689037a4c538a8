-- Ends a turn if the marker is of its token. After once.lua.
-- KEYS: m, e, t, outcome; ARGV: mark, key, token, and those of once.lua
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
local before = noted()
if before then return tonumber(before) end
if redis.call('EXISTS', KEYS[2]) == 0 then return note(0) end
local old = redis.call('HGET', KEYS[3], ARGV[2])
if not old or string.sub(old, 1, 16) ~= ARGV[3] then return note(-1) end
redis.call('HDEL', KEYS[3], ARGV[2])
return note(1, true)
