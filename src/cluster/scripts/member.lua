#!lua flags=allow-oom
-- Joins the members, or stays, by the clock of the server, and says who is alive. Who has left does not come back.
-- A lease that has ended tells of a member that is gone only where this node has taken renewals for a whole lease before,
-- with no gap of half of one: else all of them ended while nobody could renew them, or the clock is another one now.
-- It makes room for nothing, and a node that is full keeps its members: else nobody could release or close anything there.
-- KEYS: m (mark), members, guards, renewals; ARGV: mark, member ('' only looks), milliseconds ('' leaves), has a guard (1) or
--   not (0), milliseconds of a lease
-- Answers whether it tells so (1) or not (0), the members and guards whose lease has not ended, and where it does not tell
-- the guards whose lease has.
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local day, lease = 86400000, tonumber(ARGV[5])
local function text(number) return string.format('%.0f', number) end
local taken = redis.call('HMGET', KEYS[4], 'since', 'last')
local since, last = tonumber(taken[1] or now), tonumber(taken[2] or 0)
if math.abs(now - last) > lease / 2 or since > now then since = now end
-- Who only looks writes seldom.
if text(since) ~= taken[1] or math.abs(now - last) >= lease / 12 then
  redis.call('HSET', KEYS[4], 'since', text(since), 'last', text(now))
end
if ARGV[2] ~= '' then
  local old = redis.call('ZSCORE', KEYS[2], ARGV[2])
  if ARGV[3] == '' then
    redis.call('ZADD', KEYS[2], text(-now), ARGV[2])
    redis.call('ZREM', KEYS[3], ARGV[2])
  elseif not old or tonumber(old) >= 0 then
    redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[3])), ARGV[2])
    if ARGV[4] == '1' then redis.call('ZADD', KEYS[3], text(now + tonumber(ARGV[3])), ARGV[2]) end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. text(day - now), '(0')
for n = 2, 3 do redis.call('ZREMRANGEBYSCORE', KEYS[n], 0, '(' .. text(now - 7 * day)) end
local steady, next = now - since >= lease, '(' .. text(now)
return {
  steady and 1 or 0,
  redis.call('ZRANGEBYSCORE', KEYS[2], next, '+inf'),
  redis.call('ZRANGEBYSCORE', KEYS[3], next, '+inf'),
  steady and {} or redis.call('ZRANGEBYSCORE', KEYS[3], 0, text(now)),
}
