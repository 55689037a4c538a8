-- Condemns an entry that has the time that was seen, unless it is condemned with that time already.
-- KEYS: m (mark and counters), u, p (condemned); ARGV: mark, key, seen time. Answers the condemnation, or nothing.
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
if redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[3] then return '' end
local old = redis.call('HGET', KEYS[3], ARGV[2])
if old and string.match(old, ':(.*)$') == ARGV[3] then return old end
local new = redis.call('HINCRBY', KEYS[1], 'condemned', 1) .. ':' .. ARGV[3]
redis.call('HSET', KEYS[3], ARGV[2], new)
return new
