-- Removes an entry if it is still the one that was seen. After once.lua.
-- KEYS: m (mark), u, l, e, x, t (turns), h (holds), n (leases), leases of the key, p (condemned), outcome
-- ARGV: mark, key, seen stamp, seen time ('' any), now (holds and leases that end later protect; '' none do),
--   the condemnation that was seen ('' none is needed), and those of once.lua
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
if noted() then return 1 end
-- That it was not removed is not noted: what was seen does not come back, so one that comes late finds nothing to remove.
local have = redis.call('HGET', KEYS[4], 'v')
if not have then return 0 end
if have ~= ARGV[3] then return -1 end
if ARGV[4] ~= '' and redis.call('ZSCORE', KEYS[2], ARGV[2]) ~= ARGV[4] then return -1 end
if ARGV[5] ~= '' then
  for n = 7, 8 do
    local hold = redis.call('ZSCORE', KEYS[n], ARGV[2])
    if hold and tonumber(hold) > tonumber(ARGV[5]) then return -2 end
  end
end
if ARGV[6] ~= '' and redis.call('HGET', KEYS[10], ARGV[2]) ~= ARGV[6] then return -3 end
for n = 2, 3 do redis.call('ZREM', KEYS[n], ARGV[2]) end
redis.call('HDEL', KEYS[6], ARGV[2])
for n = 7, 8 do redis.call('ZREM', KEYS[n], ARGV[2]) end
redis.call('HDEL', KEYS[10], ARGV[2])
redis.call('UNLINK', KEYS[4], KEYS[5], KEYS[9])
return note(1, true)
