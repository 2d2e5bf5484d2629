-- Makes deliveries ready whose time has come or whose sender is gone, forgets
-- those that have outlived their time, and hands out what there is room for.
-- KEYS     see begin.lua
-- ARGV[2]  {depth, lease (ms), claim: see wclaim; most: of each}
-- Returns  {tickets, ms until the next is due or may go, or -1, handed out, ready lanes of as many tenants, waiting for another try,
--          endpoints that failures disabled}.
sorted(keys.retries(), keys.resting(), keys.formerLanes(), keys.sending(), keys.deliveriesExpiring(), keys.failing(), keys.senders(), keys.disabledHooks())
each('HLEN', keys.flying())
each('GET', keys.sendingSwept(), keys.sendingGrace(), keys.claimed(a.claim))
spare()
local function upto(key) return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, a.most) end

for _, id in ipairs(upto(keys.retries())) do
  redis.call('ZREM', keys.retries(), id)
  local h = redis.pcall('HMGET', keys.delivery(id), 't', 'l')
  if h.err or h[1] and not pcall(fitsEvents, h[1]) then
    wbroken(id)
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
  local sound, tenant = pcall(wowner, lane)
  if sound and tenant then sound = pcall(fitsEvents, tenant) end
  if not sound then
    redis.call('ZADD', keys.resting(), now + 60000, lane)
  elseif tenant then
    wline(tenant, lane)
  end
end

-- recount counts what of each lane is handed out, after one of these could not be read:
-- nobody knows its lane any more, where it would hold a place for ever.
local function recount()
  local flies = {}
  for _, id in ipairs(redis.call('ZRANGE', keys.sending(), 0, -1)) do
    local lane = redis.pcall('HGET', keys.delivery(id), 'l')
    if type(lane) == 'string' then flies[lane] = (flies[lane] or 0) + 1 end
  end
  local was = redis.call('HGETALL', keys.flying())
  for i = 1, #was, 2 do
    local lane, n = was[i], flies[was[i]] or 0
    if n < tonumber(was[i + 1]) then
      if n > 0 then redis.call('HSET', keys.flying(), lane, n) else redis.call('HDEL', keys.flying(), lane) end
      redis.call('ZADD', keys.resting(), now, lane)
    end
  end
end

-- Whose sender is gone is sent again. If an attempt had begun, its receiver has
-- perhaps seen it: it counts, and stands in the log.
for _, id in ipairs(graced(keys.sendingSwept(), keys.sendingGrace(), a.lease) and {} or upto(keys.sending())) do
  local d = keys.delivery(id)
  local h = redis.pcall('HMGET', d, 't', 'l', 'f', 'by', 'log')
  if h[1] and not pcall(fitsEvents, h[1]) then
    redis.call('ZADD', keys.sending(), now + 60000, id)
  elseif h[1] then
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
    if h.err then
      wbroken(id)
      recount()
    end
  end
end
for _, id in ipairs(upto(keys.deliveriesExpiring())) do
  redis.call('ZREM', keys.deliveriesExpiring(), id)
  local h = redis.pcall('HMGET', keys.delivery(id), 't', 'w', 'l')
  if h[1] and not pcall(function()
    fitsEvents(h[1])
    fitsLane(h[3])
    if h[2] then sorted(keys.sent(h[2])) end
  end) then
    redis.call('ZADD', keys.deliveriesExpiring(), now + 60000, id)
  elseif h[1] then
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
  local n = redis.pcall('ZCARD', keys.lanes(tenant))
  if type(n) == 'number' then lanes = lanes + n end
end
-- A release before this one enables or forgets an endpoint without taking it off this list: one a sweep is
-- looked at, by turns.
local off = redis.call('ZRANGE', keys.disabledHooks(), 0, 0)[1]
if off and without('HGET', keys.endpoint(off), 'dis') then
  redis.call('ZADD', keys.disabledHooks(), now, off)
elseif off then
  redis.call('ZREM', keys.disabledHooks(), off)
end
return { tickets, wait, redis.call('ZCARD', keys.sending()), lanes, redis.call('ZCARD', keys.retries()), redis.call('ZCARD', keys.disabledHooks()) }
