-- Ends the jobs that wait though nobody has waited for them for long enough. One that
-- runs is finished: it is paid for.
-- KEYS     see begin.lua
-- ARGV[2]  {most: jobs at once}
-- Returns  for each job that was canceled: id, tenant, pool, attempts
local due = redis.call('ZRANGEBYSCORE', keys.callers(), '-inf', now, 'LIMIT', 0, a.most)
for _, id in ipairs(due) do moving(id) end
spare()
local canceled = {}
for _, id in ipairs(due) do
  redis.call('ZREM', keys.callers(), id)
  local j = load(id)
  if j and not final(j.s) and j.s ~= 'running' then
    redis.call('HINCRBY', j.key, 'f', 1)
    finish(j, 'canceled', '{"error":{"code":"canceled","message":"its caller went away and did not come back","maybe_billed":false}}', 0)
    for _, v in ipairs({ id, j.t, j.p, redis.call('HGET', j.key, 'n') or '0' }) do canceled[#canceled + 1] = v end
  end
end
return canceled
