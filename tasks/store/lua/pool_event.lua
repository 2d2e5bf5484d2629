-- A pool has another state: the endpoints that take events of pools are told, once.
-- KEYS     see begin.lua
-- ARGV[2]  {pool; state: "paused" or "resumed"}
-- ARGV[3]  body
-- Returns  1 when it was news. A pool that was never looked at is resumed.
local was = redis.call('HGET', keys.poolStates(), a.pool) or 'resumed'
if was == a.state then return 0 end
local hooks, kind = redis.call('HGETALL', keys.poolHooks()), 'pool.' .. a.state
redis.call('GET', keys.serial())
sorted(keys.senders())
lasting()
redis.call('HSET', keys.poolStates(), a.pool, a.state)
local event = 'evt_pool' .. redis.call('INCR', keys.serial()) .. '_' .. string.format('%d', now)
for i = 1, #hooks, 2 do
  -- One tenant's keys of another type keep the word from that tenant alone.
  local sound = pcall(fitsEvents, hooks[i + 1])
  local takes = sound and redis.call('HGET', keys.hooks(hooks[i + 1]), hooks[i]) or ''
  if string.find(takes, ',' .. kind .. ',', 1, true) then
    deliver(hooks[i + 1], hooks[i], '', kind, a.pool, event, ARGV[3], takerOf(takes))
  end
end
wwake()
return 1
