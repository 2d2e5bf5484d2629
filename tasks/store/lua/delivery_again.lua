-- Deliveries are to be sent again, from the first attempt on.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant; delivered: true for those too that were}
-- ARGV[3]  and on: ids
-- Returns  for each id "ok", "gone", "disabled" when its endpoint is not sent to, "deleted" when its job was, or
-- "delivered" when it was and is left.
local said = answered()
if said then return said end
fitsEvents(a.tenant)
lasting()
for i = 3, #ARGV do
  local d = keys.delivery(ARGV[i])
  local object = redis.call('HGET', d, 'o')
  if object then redis.call('LLEN', keys.tellings(object)) end
end
local answers, made = {}, false
for i = 3, #ARGV do
  local id = ARGV[i]
  local d = keys.delivery(id)
  local h = redis.call('HMGET', d, 't', 's', 'w', 'l', 'gone', 'o')
  local word = 'ok'
  if foreign(a.tenant, h[1], d) then
    word = 'gone'
  elseif h[5] == 'deleted' then
    word = 'deleted'
  elseif h[2] == 'delivered' and not a.delivered then
    word = 'delivered'
  elseif h[3] and redis.call('HEXISTS', keys.hooks(h[1]), h[3]) == 0 then
    word = 'disabled'
  elseif h[2] ~= 'pending' then
    redis.call('HSET', d, 's', 'pending')
    redis.call('HDEL', d, 'n', 'fin', 'due')
    redis.call('ZADD', keys.deliveriesExpiring(), now + wkept, id)
    redis.call('PEXPIRE', keys.tellings(h[6]), wkept)
    wready(id, h[1], h[4])
    made = true
  elseif redis.call('ZREM', keys.retries(), id) == 1 then
    redis.call('HDEL', d, 'due')
    wready(id, h[1], h[4])
    made = true
  end
  answers[#answers + 1] = word
end
if made then wwake() end
return answer(answers)
