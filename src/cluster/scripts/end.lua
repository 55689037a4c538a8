-- Ends a turn if the marker is of its token. KEYS: m, e, t; ARGV: mark, key, token
-- Answers 2 if it is the last one that was ended in this shard: a repetition finds that.
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local old = redis.call('HGET', KEYS[3], ARGV[2])
if not old or string.sub(old, 1, 16) ~= ARGV[3] then
  if redis.call('HGET', KEYS[1], 'ended') == ARGV[3] then return 2 end
  return -1
end
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[1], 'ended', ARGV[3])
return 1
