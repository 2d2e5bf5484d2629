-- leave: the caller stands in line no longer.
-- KEYS     see state.lua
-- ARGV[2]  nothing of its own
-- Returns  {epoch}
spare()
catch_up()
redis.call('ZREM', WAITING, a.holder)
redis.call('HDEL', WANTS, a.holder)
save()
return {s.epoch}
