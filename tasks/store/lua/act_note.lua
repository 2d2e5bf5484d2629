-- Writes a line of the audit. A repeat changes nothing.
-- KEYS     see begin.lua
-- ARGV[2]  {act: the line; acts: lines that are kept}
-- Returns  "ok".
redis.call('ZADD', keys.acts(), 0, a.act)
redis.pcall('ZREMRANGEBYRANK', keys.acts(), 0, -a.acts - 1) -- one line more does no harm
return 'ok'
