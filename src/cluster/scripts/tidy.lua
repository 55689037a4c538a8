-- Removes what hangs on no entry: rows, turn and leases of a key that has none, or the turn of another session than the entry has.
-- KEYS: m (mark), e, u, l, t (turns), n (leases), leases of the key; ARGV: mark, key, seen stamp ('' none), seen marker ('' none)
-- Answers how many rows, turns and keys with leases it has removed.
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
if (redis.call('HGET', KEYS[2], 'v') or '') ~= ARGV[3] then return {0, 0, 0} end
local turns = 0
if redis.call('HGET', KEYS[5], ARGV[2]) == ARGV[4] then turns = redis.call('HDEL', KEYS[5], ARGV[2]) end
if ARGV[3] ~= '' then return {0, turns, 0} end
local rows = redis.call('ZREM', KEYS[3], ARGV[2]) + redis.call('ZREM', KEYS[4], ARGV[2])
redis.call('UNLINK', KEYS[7])
return {rows, turns, redis.call('ZREM', KEYS[6], ARGV[2])}
