-- Forgets an endpoint. Its deliveries stay listed with the tenant's until their time.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] endpoint
-- Returns "ok" or "gone".
local wh = P .. 'wh:' .. ARGV[2]
if redis.call('HGET', wh, 't') ~= ARGV[1] then return 'gone' end
redis.call('DEL', wh)
redis.call('ZREM', P .. 'whs:' .. ARGV[1], ARGV[2])
redis.call('HDEL', P .. 'hooks:' .. ARGV[1], ARGV[2])
redis.call('HDEL', P .. 'whp', ARGV[2])
return 'ok'
