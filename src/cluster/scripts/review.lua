-- Notes what a member has looked at, if that is all that is condemned up to there: a failover may have taken back what the
-- member saw, and given its numbers to others.
-- KEYS: m (mark and counters), p (condemned), h (holds), r (reviewed), u (activity); ARGV: mark, member, reviewed before, reviewed now,
--   the end of holds, then for each that it was asked about: key, condemnation, at work (1) or not (0)
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
local before, now = tonumber(ARGV[3]), tonumber(ARGV[4])
if tonumber(redis.call('HGET', KEYS[1], 'condemned') or '0') < now then return 0 end
local asked = {}
for n = 6, #ARGV, 3 do asked[ARGV[n]] = ARGV[n + 1] end
local all = redis.call('HGETALL', KEYS[2])
for n = 1, #all, 2 do
  local number = tonumber(string.match(all[n + 1], '^%d+'))
  if number > before and number <= now and asked[all[n]] ~= all[n + 1] then return 0 end
end
for n = 6, #ARGV, 3 do
  -- It was used since, or is gone: it is condemned anew when it has expired.
  local seen = string.match(ARGV[n + 1], ':([^:]*)$')
  if redis.call('ZSCORE', KEYS[5], ARGV[n]) ~= seen then redis.call('HDEL', KEYS[2], ARGV[n]) end
  if ARGV[n + 2] == '1' then
    redis.call('ZADD', KEYS[3], 'GT', ARGV[5], ARGV[n])
    -- It is asked about again: a hold ends.
    redis.call('HDEL', KEYS[2], ARGV[n])
  end
end
redis.call('HSET', KEYS[4], ARGV[2], ARGV[4])
return 1
