-- Opens a store to all, unless somebody else restores it now. A repetition says that it was done.
-- KEYS: meta; ARGV: the state that it has until then, loader ('' for none)
local state, loader = unpack(redis.call('HMGET', KEYS[1], 'state', 'loader'))
if ARGV[2] ~= '' and loader ~= ARGV[2] then return 0 end
if state == 'ready' then return 1 end
if state ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'ready')
return 1
