-- Begins a turn if the entry is the one that was seen, and so is its marker. After once.lua.
-- KEYS: m (mark and counters), u, e, t, outcome; ARGV: mark, key, seen stamp, seen token ('' none), time, nonce, rest of the
--   marker, and those of once.lua
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return {-9} end
local before = noted()
if before then return #before == 16 and {1, before} or {tonumber(before)} end
if redis.call('EXISTS', KEYS[3]) == 0 then return {note(0)} end
local old = redis.call('HGET', KEYS[4], ARGV[2])
local token = old and string.sub(old, 1, 16) or ''
if redis.call('HGET', KEYS[3], 'v') ~= ARGV[3] or token ~= ARGV[4] then return {note(-1)} end
-- A failover may give a number twice. The token has some of the nonce too, so that it ends no turn but its own.
local new = string.format('%012x', redis.call('HINCRBY', KEYS[1], 'token', 1)) .. string.sub(ARGV[6], 13)
redis.call('HSET', KEYS[4], ARGV[2], new .. ARGV[6] .. ARGV[7])
redis.call('ZADD', KEYS[2], 'XX', 'GT', ARGV[5], ARGV[2])
return {1, note(new, true)}
