-- leave: the caller stands in line no longer.
-- After the chapters. No further ARGV. Returns {epoch}.
catch_up()
redis.call('ZREM', WAITING, me)
redis.call('HDEL', WANTS, me)
save()
return {s.epoch}
