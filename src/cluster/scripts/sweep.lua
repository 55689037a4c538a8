-- Begins a sweep of hints that lead to keys of this shard: says which of these are as they were seen, and gives the sweep a name.
-- Who wrote a hint before, and its entry not yet, is refused by put.lua then, and writes another hint.
-- KEYS: m (mark), and the entry of each hint; ARGV: mark, a new name, and the stamp that was seen of each entry ('' none)
-- Answers 1 for each hint that may go, else 0.
if redis.call('HGET', KEYS[1], 'mark') ~= ARGV[1] then return -9 end
local answer, any = {}, false
for n = 2, #KEYS do
  local is_same = (redis.call('HGET', KEYS[n], 'v') or '') == ARGV[n + 1]
  answer[n - 1] = is_same and 1 or 0
  any = any or is_same
end
if any then redis.call('HSET', KEYS[1], 'swept', ARGV[2]) end
return answer
