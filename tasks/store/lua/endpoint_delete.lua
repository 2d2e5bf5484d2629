-- Forgets an endpoint, after what was sent to it, some of it in one call. Its deliveries stay listed with the
-- tenant's until their time, and what still waits is exhausted when its turn comes.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] endpoint, ARGV[3] at most so many deliveries
-- Returns "ok", "gone", or "more" when it has to be called again.
spare()
local wh, we = keys.endpoint(ARGV[2]), keys.sent(ARGV[2])
if redis.call('HGET', wh, 't') ~= ARGV[1] then return 'gone' end
redis.call('HDEL', keys.hooks(ARGV[1]), ARGV[2])
redis.call('HDEL', keys.poolHooks(), ARGV[2])
for _, id in ipairs(redis.call('ZRANGE', we, 0, ARGV[3] - 1)) do
  redis.call('HDEL', keys.delivery(id), 'b')
  redis.call('ZREM', we, id)
end
if redis.call('EXISTS', we) == 1 then
  -- Should its owner not come back, it is listed as what it is: sent nothing.
  if redis.call('HSETNX', wh, 'dis', now) == 1 then redis.call('HSET', wh, 'why', 'owner') end
  return 'more'
end
redis.call('DEL', wh)
redis.call('ZREM', keys.endpoints(ARGV[1]), ARGV[2])
return 'ok'
