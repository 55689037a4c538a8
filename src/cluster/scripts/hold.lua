-- Sets the end of a named lease, or ends it ('' for the term). After once.lua.
-- KEYS: m, e, n (leases), leases of the key, outcome; ARGV: mark, key, name, term, end, limit, and those of once.lua
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
local before = noted()
if before then return tonumber(before) end
if redis.call('EXISTS', KEYS[2]) == 0 then return note(0) end
local old = redis.call('HGET', KEYS[4], ARGV[3])
local function end_of(term) return tonumber(string.match(term, ':(%d+)$')) end
if ARGV[4] == '' then
  if not old then return note(-1) end
  redis.call('HDEL', KEYS[4], ARGV[3])
else
  -- Those that have ended go, and count no more.
  local now, terms = tonumber(string.match(ARGV[4], '^(%d+):')), redis.call('HGETALL', KEYS[4])
  for n = 1, #terms, 2 do
    if end_of(terms[n + 1]) <= now then
      redis.call('HDEL', KEYS[4], terms[n])
      if terms[n] == ARGV[3] then old = nil end
    end
  end
  if not old and redis.call('HLEN', KEYS[4]) >= tonumber(ARGV[6]) then return note(-2) end
  -- Setting another end does not change when it was taken.
  local since = old and string.match(old, '^(%d+):') or string.match(ARGV[4], '^(%d+):')
  redis.call('HSET', KEYS[4], ARGV[3], since .. ':' .. ARGV[5])
end
local last
for _, term in ipairs(redis.call('HVALS', KEYS[4])) do
  local stop = end_of(term)
  if not last or stop > last then last = stop end
end
if last then redis.call('ZADD', KEYS[3], string.format('%.0f', last), ARGV[2]) else redis.call('ZREM', KEYS[3], ARGV[2]) end
return note(1, true)
