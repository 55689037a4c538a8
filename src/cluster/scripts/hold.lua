-- Sets the end of a named lease, or ends it ('' for the term).
-- KEYS: m, e, n (leases), leases of the key, attempts; ARGV: mark, key, name, term, end, limit, number of the attempt
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
-- A request whose answer did not come in time may lie with the node still: it does nothing once a later one of it was here.
local attempt, last = tonumber(ARGV[#ARGV]), redis.call('GET', KEYS[5])
if last and tonumber(last) > attempt then return -8 end
if attempt > 0 then redis.call('SET', KEYS[5], attempt, 'PX', 600000) end
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local old = redis.call('HGET', KEYS[4], ARGV[3])
if ARGV[4] == '' then
  if not old then return -1 end
  redis.call('HDEL', KEYS[4], ARGV[3])
else
  if not old and redis.call('HLEN', KEYS[4]) >= tonumber(ARGV[6]) then return -2 end
  -- Setting another end does not change when it was taken.
  local since = old and string.match(old, '^(%d+):') or string.match(ARGV[4], '^(%d+):')
  redis.call('HSET', KEYS[4], ARGV[3], since .. ':' .. ARGV[5])
end
local last
for _, term in ipairs(redis.call('HVALS', KEYS[4])) do
  local stop = tonumber(string.match(term, ':(%d+)$'))
  if not last or stop > last then last = stop end
end
if last then redis.call('ZADD', KEYS[3], string.format('%.0f', last), ARGV[2]) else redis.call('ZREM', KEYS[3], ARGV[2]) end
return 1
