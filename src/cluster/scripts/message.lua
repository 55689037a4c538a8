-- Reads an entry for a message, and touches it unless it is suspended: then another takes its place, in one step with that.
-- KEYS: m (mark), u (activity), l (interaction), e (entry), and x (extras) where they are to be read; ARGV: key, time
local record = redis.call('HMGET', KEYS[4], 'v', 'h', 'c', 'i', 's')
if record[1] and record[5] ~= '1' then
  redis.call('ZADD', KEYS[2], 'XX', 'GT', ARGV[2], ARGV[1])
  redis.call('ZADD', KEYS[3], 'XX', 'GT', ARGV[2], ARGV[1])
end
local answer = {record, redis.call('ZSCORE', KEYS[2], ARGV[1]), redis.call('ZSCORE', KEYS[3], ARGV[1]),
  redis.call('HGET', KEYS[1], 'mark')}
if KEYS[5] then answer[5] = redis.call('HGETALL', KEYS[5]) end
return answer
