-- Ends the deletion of a tenant of which nothing is left in any list: what it counts in goes, and the name is anybody's
-- after settle. Sent again then, it forgets that it was deleted.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; settle: ms in which nothing of it is taken in yet; pools; act: the line; acts, old: see act_note.lua}
-- Returns  "ok", "more" while something is left, or "gone" when nobody deletes it.
local t, d = a.tenant, keys.departure(a.tenant)
local h = redis.call('HMGET', d, 'at', 'over')
if not h[1] then return 'gone' end
for _, list in ipairs({ keys.jobs(t), keys.batches(t), keys.staged(t), keys.deliveries(t), keys.endpoints(t) }) do
  if redis.call('ZCARD', list) > 0 then return 'more' end
end
each('HLEN', keys.weights(), keys.settings())
fitsAccounts(a.pools)
sorted(keys.atLimit(), keys.senders(), keys.leaving(), keys.acts(), keys.conducts())
spare()
if h[2] and now >= h[2] + a.settle then
  redis.call('HDEL', keys.weights(), '\t\n' .. t)
  redis.call('ZREM', keys.leaving(), t)
  redis.call('DEL', d)
  return 'ok'
end
if h[2] then return 'ok' end
local gone = { keys.marked(t), keys.conduct(t), keys.outs(t), keys.passed(t), keys.reviews(t), keys.lanes(t), keys.places(t), keys.hooks(t), keys.secrets(t) }
redis.call('DEL', unpack(gone))
closeAccounts(t, a.pools)
for _, pool in ipairs(a.pools) do
  redis.call('DEL', keys.backlog(pool, t))
  for _, lane in ipairs({ 'high', 'normal', 'low' }) do
    redis.pcall('ZREM', keys.turns(pool, lane), t)
    redis.pcall('ZREM', keys.owing(pool, lane), t)
  end
  redis.pcall('ZREM', keys.ring(pool), t)
  redis.pcall('HDEL', keys.paid(pool), t)
end
redis.call('HDEL', keys.weights(), t, '\t' .. t, '\t\r' .. t)
if redis.call('HDEL', keys.settings(), t) == 1 then
  redis.call('HSET', keys.settings(), '\t', string.format('%.0f', math.max(tonumber(redis.call('HGET', keys.settings(), '\t') or 0) + 1, now)))
end
for _, owner in ipairs(usersAtLimit(t)) do
  redis.call('DEL', keys.outs(owner), keys.passed(owner))
  for _, pool in ipairs(a.pools) do redis.call('DEL', keys.aside(pool, owner)) end
  redis.call('ZREM', keys.atLimit(), owner)
end
redis.call('ZREM', keys.atLimit(), t)
redis.call('ZREM', keys.senders(), t)
redis.call('ZREM', keys.conducts(), t)
redis.call('HSET', d, 'over', now)
redis.call('HSET', keys.weights(), '\t\n' .. t, string.format('%.0f', now + a.settle))
redis.call('ZADD', keys.leaving(), now + a.settle, t)
noted()
return 'ok'
