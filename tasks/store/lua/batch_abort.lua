-- Forgets the next lines of a batch that was never accepted, and the batch with the last of them.
-- KEYS     see begin.lua
-- ARGV[2]  {batch; most: lines}
-- Returns  the number of lines left.
spare()
local g, list = keys.batch(a.batch), keys.lines(a.batch)
if redis.call('HEXISTS', g, 'whole') == 1 then return 0 end
for _ = 1, a.most do
  local id = redis.call('RPOP', list)
  if not id then break end
  redis.call('DEL', keys.job(id))
end
local left = redis.call('LLEN', list)
if left == 0 then
  local h = redis.call('HMGET', g, 't', 'i')
  if h[1] and h[2] ~= '' then
    local ikey = keys.idempotency(h[1], h[2])
    if redis.call('HGET', ikey, 'busy') == a.batch then redis.call('DEL', ikey) end
  end
  redis.call('DEL', g)
  redis.call('ZREM', keys.staging(), a.batch)
end
return left
