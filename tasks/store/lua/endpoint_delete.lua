-- Forgets an endpoint, after what was sent to it, some of it in one call. Its deliveries stay listed with the
-- tenant's until their time, and what still waits is exhausted when its turn comes.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant, endpoint; most: deliveries}
-- Returns  "ok", "gone", or "more" when it has to be called again.
local said = answered()
if said then return said end
local wh, we = keys.endpoint(a.endpoint), keys.sent(a.endpoint)
if foreign(a.tenant, redis.call('HGET', wh, 't'), wh) then return 'gone' end
each('HLEN', keys.hooks(a.tenant), keys.poolHooks())
sorted(we, keys.endpoints(a.tenant), keys.disabledHooks())
spare()
redis.call('HDEL', keys.hooks(a.tenant), a.endpoint)
redis.call('HDEL', keys.poolHooks(), a.endpoint)
for _, id in ipairs(redis.call('ZRANGE', we, 0, a.most - 1)) do
  redis.pcall('HDEL', keys.delivery(id), 'b') -- of another type, it keeps no body
  redis.call('ZREM', we, id)
end
if redis.call('EXISTS', we) == 1 then
  -- Should its owner not come back, it is listed as what it is: sent nothing.
  if redis.call('HSETNX', wh, 'dis', now) == 1 then redis.call('HSET', wh, 'why', 'owner') end
  return 'more'
end
redis.call('DEL', wh)
redis.call('ZREM', keys.endpoints(a.tenant), a.endpoint)
redis.call('ZREM', keys.disabledHooks(), a.endpoint)
return answer('ok')
