-- Forgets the next deliveries of a tenant that is being deleted, whatever becomes of those on their way.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; at: the deletion's, see Returns; most: deliveries; patience: see tenant_close.lua}
-- Returns  deliveries left, -1 when that deletion is over.
local all = keys.deliveries(a.tenant)
fitsEvents(a.tenant)
sorted(all, keys.leaving())
each('HLEN', keys.departure(a.tenant))
local under = redis.call('HMGET', keys.departure(a.tenant), 'at', 'over')
if under[1] ~= a.at or under[2] then return -1 end
local ids, found = redis.call('ZRANGE', all, 0, a.most - 1), {}
for i, id in ipairs(ids) do found[i] = redis.pcall('HMGET', keys.delivery(id), 'l', 'w') end
spare()
redis.call('ZADD', keys.leaving(), 'XX', now + a.patience, a.tenant)
for i, id in ipairs(ids) do
  local lane, endpoint = found[i][1], found[i][2]
  if lane then
    if redis.call('ZSCORE', keys.sending(), id) then wland({ id }, a.tenant, lane) end
    redis.pcall('ZREM', keys.lane(lane), id)
    redis.call('ZREM', keys.failing(), lane)
    redis.call('ZREM', keys.resting(), lane)
  end
  if endpoint then redis.pcall('ZREM', keys.sent(endpoint), id) end
  redis.call('ZREM', keys.retries(), id)
  redis.call('ZREM', keys.deliveriesExpiring(), id)
  redis.call('DEL', keys.delivery(id))
  redis.call('ZREM', all, id)
end
redis.call('HINCRBY', keys.departure(a.tenant), 'dlv', #ids)
return redis.call('ZCARD', all)
