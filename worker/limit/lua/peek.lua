-- peek: how long the hold lasts yet.
-- KEYS     see state.lua
-- ARGV[2]  nothing of its own
-- Returns  {epoch, µs}
spare()
catch_up()
save()
return {s.epoch, micros(math.max(0, s.hold_until - now))}
