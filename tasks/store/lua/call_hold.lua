-- A caller still waits for a job, has gone away, has its answer, or was refused.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant, id: of the job, digest: of what is asked or "", what: "waits", "gone", "sent", "over" for
--          an answer that is not given again, or "refused"; lease, gone, keep: see call_open.lua}
-- Returns  nothing
local calls, sent = keys.calls(a.tenant, a.digest), 10000000000000
sorted(calls, keys.callers())
lasting()
local score = ({ waits = now + a.lease, gone = now, sent = sent + now })[a.what]
if a.digest ~= '' then
  if score then
    if a.what ~= 'waits' then -- who asks the same again and again leaves no more than a time's calls
      redis.call('ZREMRANGEBYSCORE', calls, '-inf', '(' .. (now - a.keep))
      redis.call('ZREMRANGEBYSCORE', calls, sent, '(' .. (sent + now - a.keep))
    end
    redis.call('ZADD', calls, score, a.id)
    redis.call('PEXPIRE', calls, a.keep + a.lease)
  else
    redis.call('ZREM', calls, a.id)
  end
end
if a.what == 'waits' then
  redis.call('ZADD', keys.callers(), now + a.lease + a.gone, a.id)
elseif a.what == 'gone' then
  redis.call('ZADD', keys.callers(), now + a.gone, a.id)
else
  redis.call('ZREM', keys.callers(), a.id)
end
return ''
