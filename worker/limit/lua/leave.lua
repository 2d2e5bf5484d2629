-- leave: the caller stands in line no longer.
-- After the chapters. No further ARGV. Returns {epoch}.
redis.call('ZREM', WAITING, me)
redis.call('HDEL', WANTS, me)
hand_over()
save()
return {s.epoch}
