-- Keeps an answer, and notes in the job's record that there is a copy of it.
-- KEYS     see begin.lua
-- ARGV[2]  {digest, job; keep: ms}
-- ARGV[3]  result, or "" to note only
-- Returns  1, or 0 when the job is gone.
local key = keys.job(a.job)
if redis.call('EXISTS', key) == 0 then return 0 end
each('HLEN', key)
-- A copy that no record names ends by itself.
if ARGV[3] ~= '' then redis.call('SET', keys.answer(a.digest), ARGV[3], 'PX', a.keep) end
redis.call('HSET', key, 'ca', a.digest)
return 1
