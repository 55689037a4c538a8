-- Comes before the scripts that are carried out once, however often they are sent. What came of one is noted under the last of
-- KEYS: a repetition answers that again, and so does a request that was given up and lies with the node still.
-- The last two of ARGV: for how many milliseconds it is noted, and the number of the attempt.
local function noted()
  local outcome = redis.call('GET', KEYS[#KEYS])
  -- A repetition has to write something too, or its WAIT would prove nothing.
  if outcome then redis.call('PEXPIRE', KEYS[#KEYS], 600000) end
  return outcome
end
-- That a first attempt has done nothing is not noted: none came before it. So a node that is full goes on to release and to remove.
local function note(outcome, is_done)
  if is_done or ARGV[#ARGV] ~= '0' then redis.call('SET', KEYS[#KEYS], outcome, 'PX', ARGV[#ARGV - 1]) end
  return outcome
end
