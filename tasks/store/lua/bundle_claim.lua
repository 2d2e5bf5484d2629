-- A worker takes up the bundle of a pool that has been due for longest. One that was gathered is closed.
-- KEYS     see begin.lua
-- ARGV[2]  {pool; lease (ms)}
-- Returns  {ms until the next is due, or -1} or {0, id, record, members: id, fence and tenant}
redis.call('HLEN', keys.gathering(a.pool))
local id = redis.call('ZRANGEBYSCORE', keys.bundles(a.pool), '-inf', now, 'LIMIT', 0, 1)[1]
if not id then
  local first = redis.call('ZRANGE', keys.bundles(a.pool), 0, 0, 'WITHSCORES')
  return { first[2] and math.max(1, math.ceil(first[2] - now)) or -1 }
end
local h = redis.call('HMGET', keys.bundle(id), 's', 'k')
local members = redis.call('HGETALL', keys.members(id))
spare()
redis.call('ZADD', keys.bundles(a.pool), now + a.lease, id)
redis.call('HINCRBY', keys.bundle(id), 'f', 1)
if h[1] == 'gathering' then
  redis.call('HSET', keys.bundle(id), 's', 'closed')
  redis.call('HDEL', keys.gathering(a.pool), h[2])
end
return { 0, id, redis.call('HGETALL', keys.bundle(id)), members }
