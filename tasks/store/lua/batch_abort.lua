-- Forgets the next lines of a batch that was never accepted, and the batch with the last of them.
-- KEYS     see begin.lua
-- ARGV[2]  {batch; most: lines}
-- Returns  {number of lines left, where bodies lie that are of use no more}.
local g, list = keys.batch(a.batch), keys.lines(a.batch)
local h = redis.call('HMGET', g, 't', 'i', 'whole')
if h[3] then return { 0, {} } end
local lies = {}
local ikey = h[1] and h[2] ~= '' and keys.idempotency(h[1], h[2])
local mine = ikey and redis.call('HGET', ikey, 'busy') == a.batch
sorted(keys.staging())
each('LLEN', list)
if h[1] then
  fitsTenant(h[1])
  sorted(keys.staged(h[1]))
end
spare()
local bytes = 0
for _ = 1, a.most do
  local id = redis.call('RPOP', list)
  if not id then break end
  local h = redis.pcall('HMGET', keys.job(id), 'qb', 'p', 'e', 'br')
  if h[2] then -- what is of another type counts for nobody
    bytes = bytes + (h[1] or 0)
    promises(h[2], expected(h[3]), -1)
    if h[4] then lies[#lies + 1] = h[4] end
  end
  redis.call('DEL', keys.job(id))
end
if h[1] then weighs(h[1], -bytes) end
local left = redis.call('LLEN', list)
if left == 0 then
  if mine then redis.call('DEL', ikey) end
  redis.call('DEL', g)
  redis.call('ZREM', keys.staging(), a.batch)
  if h[1] then redis.call('ZREM', keys.staged(h[1]), a.batch) end
end
return { left, lies }
