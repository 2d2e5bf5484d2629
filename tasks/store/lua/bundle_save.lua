-- A worker notes how far a bundle has come, or that it is done with.
-- KEYS     see begin.lua
-- ARGV[2]  {id; pool; fence; next: ms until it is due again, or -1: it is done with}
-- ARGV[3]  and on: fields and values
-- Returns  {"ok"}, or {"lost"}: another worker has taken it up.
redis.call('ZCARD', keys.bundles(a.pool))
redis.call('HLEN', keys.members(a.id))
if redis.call('HGET', keys.bundle(a.id), 'f') ~= tostring(a.fence) then return { 'lost' } end
spare()
if a.next < 0 then
  redis.call('ZREM', keys.bundles(a.pool), a.id)
  redis.call('DEL', keys.bundle(a.id), keys.members(a.id))
else
  if ARGV[3] then redis.call('HSET', keys.bundle(a.id), unpack(ARGV, 3)) end
  redis.call('ZADD', keys.bundles(a.pool), now + a.next, a.id)
end
return { 'ok' }
