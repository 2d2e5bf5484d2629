-- Stops or allows the handing out of a pool's jobs, in a full Redis too.
-- KEYS     see begin.lua
-- ARGV[2]  {pool; paused: "1" or ""}
-- Returns  1.
spare()
if a.paused == '1' then
  redis.call('HSET', keys.paused(), a.pool, 1)
else
  redis.call('HDEL', keys.paused(), a.pool)
end
return 1
