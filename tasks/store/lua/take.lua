-- A worker takes a job that Asynq handed it, to hold until the pace allows it.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence, lease (ms)}
-- Returns  {"ok", record, ms since it was handed out, or -1 where that is not known}, {"final"}, {"lost"}, {"gone"} or {"expired"}.
local j = load(a.id)
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= a.fence or phase[j.s] ~= 'queued' then return { 'lost' } end
if j.dl > 0 and j.dl <= now then
  fitsEnd(j)
  spare()
  expire(j)
  return { 'expired' }
end
-- Nothing is written for a job that was handed out just now: it stays among
-- those handed out until its worker's first renewal, well before a sweep would
-- look for it. One write less on the way of every job.
local look = redis.call('ZSCORE', keys.handed(j.p), j.id)
if not look or look - now < 5000 then
  redis.call('ZCARD', keys.held(j.p))
  spare()
  redis.call('ZREM', keys.handed(j.p), j.id)
  redis.call('ZADD', keys.held(j.p), now + a.lease, j.id)
end
return { 'ok', redis.call('HGETALL', j.key), look and now + 10000 - look or -1 }
