-- Who sends deliveries is alive: their leases run on.
-- KEYS     see begin.lua
-- ARGV[2]  {lease (ms)}
-- ARGV[3]  and on, for each delivery: id, fence
-- Returns  how many the caller still has.
spare()
local alive = 0
-- One that cannot be read holds up none of the others.
for i = 3, #ARGV, 2 do
  local h = redis.pcall('HMGET', keys.delivery(ARGV[i]), 'f', 't')
  if h[1] == ARGV[i + 1] and pcall(sorted, keys.places(h[2])) and redis.call('ZSCORE', keys.sending(), ARGV[i]) then
    redis.call('ZADD', keys.sending(), now + a.lease, ARGV[i])
    redis.call('ZADD', keys.places(h[2]), now + a.lease, ARGV[i])
    alive = alive + 1
  end
end
return alive
