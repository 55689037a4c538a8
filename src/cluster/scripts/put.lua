-- Writes an entry if it is still the one that was seen. A repetition of what was done says that it was done.
-- KEYS: m (mark), u (activity), l (interaction), e (entry), x (extras), t (turns), and attempts where none was seen
-- ARGV: mark, key, seen stamp ('' none), new stamp, time, time is exact (1) or at least (0),
--   interaction ('' none), interaction is exact (1) or at least (0), hint, hot, cold,
--   the turn stays (1) or goes (0), seen time ('' any), state (suspended 1, has an interaction 2, neither 0), '=' extras as they are or '!' new ones, then pairs of number and bytes,
--   number of the attempt where none was seen
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return {-9} end
local stop = #ARGV
if KEYS[7] then
  stop = #ARGV - 1
  -- A request whose answer did not come in time may lie with the node still: it makes nothing once a later one of it was here.
  local attempt, last = tonumber(ARGV[#ARGV]), redis.call('GET', KEYS[7])
  if last and tonumber(last) > attempt then return {-8} end
  if attempt > 0 then redis.call('SET', KEYS[7], attempt, 'PX', 600000) end
end
local have = redis.call('HGET', KEYS[4], 'v') or ''
if have ~= ARGV[4] then
  if have ~= ARGV[3] then return {0, have} end
  if ARGV[13] ~= '' and redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[13] then return {0, have} end
  redis.call('HSET', KEYS[4], 'v', ARGV[4], 'h', ARGV[10], 'c', ARGV[11], 'i', ARGV[9], 's', ARGV[14])
  if ARGV[6] == '1' then redis.call('ZADD', KEYS[2], ARGV[5], ARGV[2])
  else redis.call('ZADD', KEYS[2], 'GT', ARGV[5], ARGV[2]) end
  if ARGV[7] == '' then redis.call('ZREM', KEYS[3], ARGV[2])
  elseif ARGV[8] == '1' then redis.call('ZADD', KEYS[3], ARGV[7], ARGV[2])
  else redis.call('ZADD', KEYS[3], 'GT', ARGV[7], ARGV[2]) end
  if ARGV[12] == '0' then redis.call('HDEL', KEYS[6], ARGV[2]) end
  if ARGV[15] == '!' then
    redis.call('UNLINK', KEYS[5])
    for n = 16, stop, 2 do redis.call('HSET', KEYS[5], ARGV[n], ARGV[n + 1]) end
  end
else
  -- Done before, perhaps over another connection: this one has to write something, or its WAIT would prove nothing.
  redis.call('HSET', KEYS[4], 'v', have)
end
return {1, redis.call('ZSCORE', KEYS[2], ARGV[2]) or '', redis.call('ZSCORE', KEYS[3], ARGV[2]) or ''}
