-- Makes deliveries ready whose time has come or whose sender is gone, forgets
-- those that have outlived their time, and hands out what there is room for.
-- KEYS     see begin.lua
-- ARGV[2]  {depth, lease (ms), claim: see wclaim; most: of each}
-- Returns  {tickets, ms until the next is due or may go, or -1, handed out, ready lanes of as many tenants, waiting for another try}.
spare()
local function upto(key) return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, a.most) end

-- broken puts a delivery off whose record cannot be read: it holds no place, and up
-- none of the others.
local function broken(id) redis.call('ZADD', keys.retries(), now + 60000, id) end

for _, id in ipairs(upto(keys.retries())) do
  redis.call('ZREM', keys.retries(), id)
  local h = redis.pcall('HMGET', keys.delivery(id), 't', 'l')
  if h.err then
    broken(id)
  elseif h[1] then
    redis.call('HDEL', keys.delivery(id), 'due')
    wready(id, h[1], h[2])
  end
end
local again = upto(keys.resting())
for _, lane in ipairs(again) do redis.call('ZREM', keys.resting(), lane) end
local former = redis.call('ZPOPMIN', keys.formerLanes(), a.most)
for i = 1, #former, 2 do again[#again + 1] = former[i] end
for _, lane in ipairs(again) do
  local tenant = wowner(lane)
  if tenant then wline(tenant, lane) end
end
-- Whose sender is gone is sent again. If an attempt had begun, its receiver has
-- perhaps seen it: it counts, and stands in the log.
for _, id in ipairs(graced(keys.sendingSwept(), keys.sendingGrace(), a.lease) and {} or upto(keys.sending())) do
  local d = keys.delivery(id)
  local h = redis.pcall('HMGET', d, 't', 'l', 'f', 'by', 'log')
  if h[1] then
    local fence, line = string.match(h[4] or '', '^(%d+) %S+ (.+)$')
    if fence == h[3] then
      redis.call('HINCRBY', d, 'n', 1)
      redis.call('HSET', d, 'log', wlog(h[5], line))
    end
    wland({ id }, h[1], h[2])
    redis.call('HINCRBY', d, 'f', 1)
    wready(id, h[1], h[2])
  else
    redis.call('ZREM', keys.sending(), id)
    if h.err then broken(id) end
  end
end
for _, id in ipairs(upto(keys.deliveriesExpiring())) do
  redis.call('ZREM', keys.deliveriesExpiring(), id)
  local h = redis.pcall('HMGET', keys.delivery(id), 't', 'w', 'l')
  if h[1] then
    if redis.call('ZSCORE', keys.sending(), id) then wland({ id }, h[1], h[3]) end
    redis.call('ZREM', keys.lane(h[3]), id)
    redis.call('ZREM', keys.retries(), id)
    redis.call('ZREM', keys.deliveries(h[1]), id)
    if h[2] then redis.call('ZREM', keys.sent(h[2]), id) end
    redis.call('DEL', keys.delivery(id))
  end
end
redis.call('ZREMRANGEBYSCORE', keys.failing(), '-inf', now - wsick)
local tickets, wait, lanes = wclaim(a.claim, a.depth, a.lease), -1, 0
for _, key in ipairs({ keys.retries(), keys.resting() }) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if first[2] and (wait < 0 or first[2] - now < wait) then wait = math.max(0, first[2] - now) end
end
for _, tenant in ipairs(redis.call('ZRANGE', keys.senders(), 0, a.most - 1)) do
  lanes = lanes + redis.call('ZCARD', keys.lanes(tenant))
end
return { tickets, wait, redis.call('ZCARD', keys.sending()), lanes, redis.call('ZCARD', keys.retries()) }
