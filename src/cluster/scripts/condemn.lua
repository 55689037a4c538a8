-- Condemns an entry that has the time that was seen, unless it is condemned with that time already, and not for too long: what
-- was reviewed then tells little by now.
-- KEYS: m (mark and counters), u, p (condemned); ARGV: mark, key, seen time, now, when it is too long ago. Answers the
--   condemnation (number, when, seen time), or nothing.
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
if redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[3] then return '' end
local old = redis.call('HGET', KEYS[3], ARGV[2])
if old then
  local at, score = string.match(old, '^%d+:(%-?%d+):(.*)$')
  if score == ARGV[3] and tonumber(at) >= tonumber(ARGV[5]) then return old end
end
local new = redis.call('HINCRBY', KEYS[1], 'condemned', 1) .. ':' .. ARGV[4] .. ':' .. ARGV[3]
redis.call('HSET', KEYS[3], ARGV[2], new)
return new
