-- Forgets a batch of a tenant that is being deleted, whose jobs are gone: some of the list of its lines, and the batch with the last of them.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; at: the deletion's, see Returns; most: lines; patience: see tenant_close.lua}
-- Returns  batches left, -1 when that deletion is over.
local all = keys.batches(a.tenant)
sorted(all, keys.leaving(), keys.unfolding())
each('HLEN', keys.departure(a.tenant))
local under = redis.call('HMGET', keys.departure(a.tenant), 'at', 'over')
if under[1] ~= a.at or under[2] then return -1 end
local id = redis.call('ZRANGE', all, 0, 0)[1]
if not id then return 0 end
local g, list = keys.batch(id), keys.lines(id)
local h = redis.call('HMGET', g, 't', 'i')
local ikey = h[2] and h[2] ~= '' and keys.idempotency(a.tenant, h[2])
local mine = ikey and redis.call('HGET', ikey, 'id') == id
each('LLEN', list)
spare()
redis.call('ZADD', keys.leaving(), 'XX', now + a.patience, a.tenant)
redis.call('LTRIM', list, 0, -a.most - 1)
if redis.call('LLEN', list) == 0 then
  redis.call('DEL', g, list)
  redis.call('ZREM', keys.unfolding(), id)
  redis.call('ZREM', all, id)
  if mine then redis.call('DEL', ikey) end
  redis.call('HINCRBY', keys.departure(a.tenant), 'bat', 1)
  redis.pcall('PUBLISH', keys.note(id), 'deleted')
end
return redis.call('ZCARD', all)
