-- Reads an entry for a message, and touches it unless it is suspended: then another takes its place, in one step with that.
-- Each call costs, so what is known is not asked: a time that was moved on is the new one.
-- Answers first whether it has moved a time on.
-- KEYS: m (mark), u (activity), l (interaction), e (entry), and x (extras) where they are to be read; ARGV: key, time
local record = redis.call('HMGET', KEYS[4], 'v', 'h', 'c', 'i', 's')
local state, answer = record[5], {0, record, false, false, false}
if state == '0' or state == '2' then
  local moved = redis.call('ZADD', KEYS[2], 'XX', 'GT', 'CH', ARGV[2], ARGV[1])
  answer[1] = moved
  answer[3] = moved == 1 and ARGV[2] or redis.call('ZSCORE', KEYS[2], ARGV[1])
  if state == '2' then
    moved = redis.call('ZADD', KEYS[3], 'XX', 'GT', 'CH', ARGV[2], ARGV[1])
    answer[4] = moved == 1 and ARGV[2] or redis.call('ZSCORE', KEYS[3], ARGV[1])
  end
else
  answer[3] = redis.call('ZSCORE', KEYS[2], ARGV[1])
  answer[4] = redis.call('ZSCORE', KEYS[3], ARGV[1])
  answer[5] = redis.call('HGET', KEYS[1], 'mark')
end
if KEYS[5] then answer[6] = redis.call('HGETALL', KEYS[5]) end
return answer
