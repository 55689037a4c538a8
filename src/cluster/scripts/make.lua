-- Notes what a store is to be, unless that is settled. A restore takes up what was not made to its end, and the last one has it.
-- KEYS: meta; ARGV: id, shards, format, loader ('' makes an empty store). Answers id, shards and state.
local state = redis.call('HGET', KEYS[1], 'state')
local shards = redis.call('HGET', KEYS[1], 'shards')
if state ~= 'ready' and (not shards or shards == ARGV[2]) then
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'state', 'loading', 'loader', ARGV[4])
  elseif not state then redis.call('HSET', KEYS[1], 'state', 'making') end
  redis.call('HSETNX', KEYS[1], 'id', ARGV[1])
  redis.call('HSETNX', KEYS[1], 'shards', ARGV[2])
  redis.call('HSETNX', KEYS[1], 'format', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'id', 'shards', 'state')
