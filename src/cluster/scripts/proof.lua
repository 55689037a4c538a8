#!lua flags=allow-oom
-- The small write before a proof, at a node that is full: it refuses the plain one, and what makes room has to be proven too.
return redis.call('HINCRBY', KEYS[1], 'proof', 1)
