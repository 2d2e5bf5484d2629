-- Keeps an answer, and notes in the job's record that there is a copy of it.
-- KEYS[1] prefix; ARGV[1] digest, ARGV[2] job, ARGV[3] result or "" to note only, ARGV[4] ms to keep it
-- Returns 1, or 0 when the job is gone.
local key = keys.job(ARGV[2])
if redis.call('EXISTS', key) == 0 then return 0 end
redis.call('HSET', key, 'ca', ARGV[1])
if ARGV[3] ~= '' then redis.call('SET', keys.answer(ARGV[1]), ARGV[3], 'PX', ARGV[4]) end
return 1
