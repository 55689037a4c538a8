-- Begins a turn if the entry is the one that was seen, and so is its marker. A repetition says that it was done.
-- KEYS: m (mark and counters), u, e, t, attempts; ARGV: mark, key, seen stamp, seen token ('' none), time, nonce, rest of the
--   marker, number of the attempt
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return {-9} end
-- A request whose answer did not come in time may lie with the node still: it does nothing once a later one of it was here.
local attempt, last = tonumber(ARGV[#ARGV]), redis.call('GET', KEYS[5])
if last and tonumber(last) > attempt then return {-8} end
if attempt > 0 then redis.call('SET', KEYS[5], attempt, 'PX', 600000) end
if redis.call('EXISTS', KEYS[3]) == 0 then return {0} end
local old = redis.call('HGET', KEYS[4], ARGV[2])
if old and string.sub(old, 17, 32) == ARGV[6] then return {1, string.sub(old, 1, 16)} end
if redis.call('HGET', KEYS[3], 'v') ~= ARGV[3] then return {-1} end
local token = old and string.sub(old, 1, 16) or ''
if token ~= ARGV[4] then return {-1} end
-- A failover may give a number twice. The token has some of the nonce too, so that it ends no turn but its own.
local new = string.format('%012x', redis.call('HINCRBY', KEYS[1], 'token', 1)) .. string.sub(ARGV[6], 13)
redis.call('HSET', KEYS[4], ARGV[2], new .. ARGV[6] .. ARGV[7])
redis.call('ZADD', KEYS[2], 'XX', 'GT', ARGV[5], ARGV[2])
return {1, new}
