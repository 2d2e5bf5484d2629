-- peek: how long the hold lasts yet.
-- After the chapters. No further ARGV.
-- Returns {epoch, seconds}.
catch_up()
save()
return {s.epoch, string.format('%.6f', math.max(0, s.hold_until - now))}
