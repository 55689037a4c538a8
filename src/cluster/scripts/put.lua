-- Writes an entry if it is still the one that was seen. A repetition of what was done says that it was done. After once.lua.
-- KEYS: m (mark), u (activity), l (interaction), e (entry), x (extras), t (turns), and outcome where none was seen and others may write
-- ARGV: mark, key, seen stamp ('' none), new stamp, time, time is exact (1) or at least (0),
--   interaction ('' none), interaction is exact (1) or at least (0), hint, hot, cold,
--   the turn stays (1) or goes (0), seen time ('' any), state (suspended 1, has an interaction 2, neither 0),
--   the last sweep of the shard before the hint was written ('*' it was not), '=' extras as they are or '!' new ones, then pairs of number and bytes,
--   and those of once.lua where none was seen
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return {-9} end
local is_new = KEYS[7] ~= nil
local stop = is_new and #ARGV - 2 or #ARGV
local function done() return {1, redis.call('ZSCORE', KEYS[2], ARGV[2]) or '', redis.call('ZSCORE', KEYS[3], ARGV[2]) or ''} end
local before = is_new and noted()
if before then return before == '1' and done() or {0, ''} end
local have = redis.call('HGET', KEYS[4], 'v') or ''
if have ~= ARGV[4] then
  if have ~= ARGV[3] then
    if is_new then note(0) end
    return {0, have}
  end
  if ARGV[13] ~= '' and redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[13] then return {0, have} end
  -- A sweep since then may take the hint away (sweep.lua): another one is to be written first.
  local swept = ARGV[15] ~= '*' and (redis.call('HGET', KEYS[1], 'swept') or '')
  if swept and swept ~= ARGV[15] then
    if is_new then note(0) end
    return {-8, swept}
  end
  redis.call('HSET', KEYS[4], 'v', ARGV[4], 'h', ARGV[10], 'c', ARGV[11], 'i', ARGV[9], 's', ARGV[14])
  if ARGV[6] == '1' then redis.call('ZADD', KEYS[2], ARGV[5], ARGV[2])
  else redis.call('ZADD', KEYS[2], 'GT', ARGV[5], ARGV[2]) end
  if ARGV[7] == '' then redis.call('ZREM', KEYS[3], ARGV[2])
  elseif ARGV[8] == '1' then redis.call('ZADD', KEYS[3], ARGV[7], ARGV[2])
  else redis.call('ZADD', KEYS[3], 'GT', ARGV[7], ARGV[2]) end
  if ARGV[12] == '0' then redis.call('HDEL', KEYS[6], ARGV[2]) end
  if ARGV[16] == '!' then
    redis.call('UNLINK', KEYS[5])
    for n = 17, stop, 2 do redis.call('HSET', KEYS[5], ARGV[n], ARGV[n + 1]) end
  end
  if is_new then note(1, true) end
else
  -- Done before, perhaps over another connection: this one has to write something, or its WAIT would prove nothing.
  redis.call('HSET', KEYS[4], 'v', have)
end
return done()
