-- Writes as whatever takes work in does, and says something: both are possible now.
-- KEYS     see begin.lua
-- ARGV[2]  {keep: ms that it is remembered}
-- Returns  {now, what Redis has against saying something; "" for nothing}.
redis.call('SET', keys.beat(), now, 'PX', a.keep)
local said = redis.pcall('PUBLISH', keys.note('beat'), '')
return { now, type(said) == 'table' and said.err or '' }
