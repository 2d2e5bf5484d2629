-- leave: the caller stands in line no longer.
-- After gate.lua. No further ARGV. Returns {epoch}.
redis.call('ZREM', WAITING, me)
redis.call('HDEL', WANTS, me)
handover()
save()
return {s.epoch}
