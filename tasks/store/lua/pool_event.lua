-- A pool has another state: the endpoints that take events of pools are told, once.
-- KEYS[1] prefix; ARGV[1] pool, ARGV[2] state, "paused" or "resumed", ARGV[3] result ttl ms, ARGV[4] body
-- Returns 1 when it was news. A pool that was never looked at is resumed.
local was = redis.call('HGET', keys.poolStates(), ARGV[1]) or 'resumed'
if was == ARGV[2] then return 0 end
redis.call('HSET', keys.poolStates(), ARGV[1], ARGV[2])
local hooks, kind = redis.call('HGETALL', keys.poolHooks()), 'pool.' .. ARGV[2]
local event = 'evt_pool' .. redis.call('INCR', keys.serial()) .. '_' .. string.format('%d', now)
for i = 1, #hooks, 2 do
  local takes = redis.call('HGET', keys.hooks(hooks[i + 1]), hooks[i]) or ''
  if string.find(takes, ',' .. kind .. ',', 1, true) then
    deliver(hooks[i + 1], hooks[i], '', kind, ARGV[1], event, ARGV[4], tonumber(ARGV[3]))
  end
end
wwake()
return 1
