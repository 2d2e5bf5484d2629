-- Writes an endpoint, whole or in part, and its place among those that are told.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant, endpoint; make: true for a new one; most: endpoints of a tenant;
--          disabled: "1", enabled: "0", or "" to leave it; bare: true to forget the headers that it had}
-- ARGV[3]  and on, for each field: its name and value
-- Returns  "ok", "gone", "full", or "leaving" when its tenant is being deleted.
local said = answered()
if said then return said end
local wh, hooks = keys.endpoint(a.endpoint), keys.hooks(a.tenant)
each('HLEN', hooks, keys.poolHooks())
sorted(keys.endpoints(a.tenant), keys.failing(), keys.disabledHooks())
if closed(a.tenant) then return 'leaving' end
local owner = redis.call('HGET', wh, 't')
if owner and foreign(a.tenant, owner, wh) then return 'gone' end
if not owner then
  if not a.make then return 'gone' end
  if redis.call('ZCARD', keys.endpoints(a.tenant)) >= a.most then return 'full' end
  redis.call('HSET', wh, 't', a.tenant, 'ct', now)
  if user then redis.call('HSET', wh, 'us', user) end
  redis.call('ZADD', keys.endpoints(a.tenant), 0, a.endpoint)
end
if a.bare then
  for _, field in ipairs(redis.call('HKEYS', wh)) do
    if string.sub(field, 1, 2) == 'h:' then redis.call('HDEL', wh, field) end
  end
end
if ARGV[3] then redis.call('HSET', wh, unpack(ARGV, 3)) end
if a.disabled == '1' then
  if redis.call('HSETNX', wh, 'dis', now) == 1 then redis.call('HSET', wh, 'why', 'owner') end
elseif a.disabled == '0' then
  redis.call('HDEL', wh, 'dis', 'why', 'bad')
  redis.call('ZREM', keys.failing(), a.endpoint)
  redis.call('ZREM', keys.disabledHooks(), a.endpoint)
end
local h = redis.call('HMGET', wh, 'ev', 'dis', 'us')
redis.call('HDEL', hooks, a.endpoint)
redis.call('HDEL', keys.poolHooks(), a.endpoint)
if not h[2] then
  redis.call('HSET', hooks, a.endpoint, h[3] and h[1] .. '\n' .. h[3] or h[1]) -- see takerOf
  if string.find(h[1], ',pool.', 1, true) then redis.call('HSET', keys.poolHooks(), a.endpoint, a.tenant) end
end
return answer('ok')
