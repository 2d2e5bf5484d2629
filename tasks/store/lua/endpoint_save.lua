-- Writes an endpoint, whole or in part, and its place among those that are told.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] endpoint, ARGV[3] "1" to make it, ARGV[4] most endpoints of a tenant,
-- ARGV[5] disabled "1", enabled "0" or "" to leave it, then fields and values
-- Returns "ok", "gone" or "full".
local wh, hooks = keys.endpoint(ARGV[2]), keys.hooks(ARGV[1])
local owner = redis.call('HGET', wh, 't')
if owner and owner ~= ARGV[1] then return 'gone' end
if not owner then
  if ARGV[3] ~= '1' then return 'gone' end
  if redis.call('ZCARD', keys.endpoints(ARGV[1])) >= tonumber(ARGV[4]) then return 'full' end
  redis.call('HSET', wh, 't', ARGV[1], 'ct', now)
  redis.call('ZADD', keys.endpoints(ARGV[1]), 0, ARGV[2])
end
if #ARGV > 5 then redis.call('HSET', wh, unpack(ARGV, 6)) end
if ARGV[5] == '1' then
  if redis.call('HSETNX', wh, 'dis', now) == 1 then redis.call('HSET', wh, 'why', 'owner') end
elseif ARGV[5] == '0' then
  redis.call('HDEL', wh, 'dis', 'why', 'bad')
  redis.call('ZREM', keys.failing(), ARGV[2])
end
local h = redis.call('HMGET', wh, 'ev', 'dis')
redis.call('HDEL', hooks, ARGV[2])
redis.call('HDEL', keys.poolHooks(), ARGV[2])
if not h[2] then
  redis.call('HSET', hooks, ARGV[2], h[1])
  if string.find(h[1], ',pool.', 1, true) then redis.call('HSET', keys.poolHooks(), ARGV[2], ARGV[1]) end
end
return 'ok'
