-- Makes deliveries ready whose time has come or whose sender is gone, forgets
-- those that have outlived their time, and hands out what there is room for.
-- KEYS[1] prefix; ARGV[1] depth, ARGV[2] lease ms, ARGV[3] at most so many of each
-- Returns {tickets, ms until the next is due or may go, or -1, handed out, ready lanes, waiting for another try}.
spare()
local most, tickets = tonumber(ARGV[3]), {}
local function upto(key) return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, most) end

for _, id in ipairs(upto(P .. 'wdue')) do
  redis.call('ZREM', P .. 'wdue', id)
  local lane = redis.call('HGET', P .. 'd:' .. id, 'l')
  if lane then
    redis.call('HDEL', P .. 'd:' .. id, 'due')
    wready(id, lane)
  end
end
for _, lane in ipairs(upto(P .. 'wrest')) do
  redis.call('ZREM', P .. 'wrest', lane)
  wline(lane)
end
for _, id in ipairs(upto(P .. 'wout')) do
  redis.call('ZREM', P .. 'wout', id)
  local lane = redis.call('HGET', P .. 'd:' .. id, 'l')
  if lane then
    wland(lane, 1)
    redis.call('HINCRBY', P .. 'd:' .. id, 'f', 1)
    wready(id, lane)
  end
end
for _, id in ipairs(upto(P .. 'wgone')) do
  redis.call('ZREM', P .. 'wgone', id)
  local h = redis.call('HMGET', P .. 'd:' .. id, 't', 'w', 'l')
  if h[1] then
    if redis.call('ZREM', P .. 'wout', id) == 1 then wland(h[3], 1) end
    redis.call('ZREM', P .. 'wq:' .. h[3], id)
    redis.call('ZREM', P .. 'wdue', id)
    redis.call('ZREM', P .. 'wt:' .. h[1], id)
    if h[2] then redis.call('ZREM', P .. 'we:' .. h[2], id) end
    redis.call('DEL', P .. 'd:' .. id)
  end
end
redis.call('ZREMRANGEBYSCORE', P .. 'wbad', '-inf', now - wsick)
wclaim(tonumber(ARGV[1]), tonumber(ARGV[2]), tickets)
local wait = -1
for _, key in ipairs({ 'wdue', 'wrest' }) do
  local first = redis.call('ZRANGE', P .. key, 0, 0, 'WITHSCORES')
  if first[2] and (wait < 0 or first[2] - now < wait) then wait = math.max(0, first[2] - now) end
end
return { tickets, wait, redis.call('ZCARD', P .. 'wout'), redis.call('ZCARD', P .. 'wring'), redis.call('ZCARD', P .. 'wdue') }
