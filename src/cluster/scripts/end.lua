-- Ends a turn if the marker is of its token. After once.lua.
-- KEYS: m, e, t, outcome; ARGV: mark, key, token, and those of once.lua
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
local before = noted()
if before then return tonumber(before) end
local old = redis.call('HGET', KEYS[3], ARGV[2])
local is_its = old and string.sub(old, 1, 16) == ARGV[3]
if is_its then redis.call('HDEL', KEYS[3], ARGV[2]) end
-- Restores that race may leave a marker without an entry.
if redis.call('EXISTS', KEYS[2]) == 0 then return note(0, is_its) end
return is_its and note(1, true) or note(-1)
