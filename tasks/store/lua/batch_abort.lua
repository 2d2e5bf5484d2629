-- Forgets the next lines of a batch that was never accepted, and the batch with the last of them.
-- KEYS     see begin.lua
-- ARGV[2]  {batch; most: lines}
-- Returns  the number of lines left.
local g, list = keys.batch(a.batch), keys.lines(a.batch)
local h = redis.call('HMGET', g, 't', 'i', 'whole')
if h[3] then return 0 end
local ikey = h[1] and h[2] ~= '' and keys.idempotency(h[1], h[2])
local mine = ikey and redis.call('HGET', ikey, 'busy') == a.batch
sorted(keys.staging())
each('LLEN', list)
spare()
for _ = 1, a.most do
  local id = redis.call('RPOP', list)
  if not id then break end
  redis.call('DEL', keys.job(id))
end
local left = redis.call('LLEN', list)
if left == 0 then
  if mine then redis.call('DEL', ikey) end
  redis.call('DEL', g)
  redis.call('ZREM', keys.staging(), a.batch)
end
return left
