-- A task of this fence is nobody's any more: the job is handed out anew.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence}
-- Returns  the new fence, or 0 when the job has moved on.
spare()
local j = load(a.id)
if not j or phase[j.s] ~= 'queued' or j.f ~= a.fence then return 0 end
if not redis.call('ZSCORE', keys.handed(j.p), j.id) then return 0 end
redis.call('ZADD', keys.handed(j.p), now + 10000, j.id)
return redis.call('HINCRBY', j.key, 'f', 1)
