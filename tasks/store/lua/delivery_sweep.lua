-- Makes deliveries ready whose time has come or whose sender is gone, forgets
-- those that have outlived their time, and hands out what there is room for.
-- KEYS     see begin.lua
-- ARGV[2]  {depth, lease (ms); most: of each}
-- Returns  {tickets, ms until the next is due or may go, or -1, handed out, ready lanes, waiting for another try}.
spare()
local function upto(key) return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, a.most) end

for _, id in ipairs(upto(keys.retries())) do
  redis.call('ZREM', keys.retries(), id)
  local lane = redis.call('HGET', keys.delivery(id), 'l')
  if lane then
    redis.call('HDEL', keys.delivery(id), 'due')
    wready(id, lane)
  end
end
for _, lane in ipairs(upto(keys.resting())) do
  redis.call('ZREM', keys.resting(), lane)
  wline(lane)
end
for _, id in ipairs(upto(keys.sending())) do
  redis.call('ZREM', keys.sending(), id)
  local lane = redis.call('HGET', keys.delivery(id), 'l')
  if lane then
    wland(lane, 1)
    redis.call('HINCRBY', keys.delivery(id), 'f', 1)
    wready(id, lane)
  end
end
for _, id in ipairs(upto(keys.deliveriesExpiring())) do
  redis.call('ZREM', keys.deliveriesExpiring(), id)
  local h = redis.call('HMGET', keys.delivery(id), 't', 'w', 'l')
  if h[1] then
    if redis.call('ZREM', keys.sending(), id) == 1 then wland(h[3], 1) end
    redis.call('ZREM', keys.lane(h[3]), id)
    redis.call('ZREM', keys.retries(), id)
    redis.call('ZREM', keys.deliveries(h[1]), id)
    if h[2] then redis.call('ZREM', keys.sent(h[2]), id) end
    redis.call('DEL', keys.delivery(id))
  end
end
redis.call('ZREMRANGEBYSCORE', keys.failing(), '-inf', now - wsick)
local tickets, wait = wclaim(a.depth, a.lease), -1
for _, key in ipairs({ keys.retries(), keys.resting() }) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] and (wait < 0 or first[2] - now < wait) then wait = math.max(0, first[2] - now) end
end
return { tickets, wait, redis.call('ZCARD', keys.sending()), redis.call('ZCARD', keys.lanes()), redis.call('ZCARD', keys.retries()) }
