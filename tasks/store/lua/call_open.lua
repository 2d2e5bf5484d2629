-- A caller begins to wait for a job: one that it has yet to submit, or, where it
-- repeats itself, that of the call before. A repeat takes a call that nobody waits for
-- and whose answer reached nobody, the oldest first; else one that somebody still waits
-- for; else one whose answer was sent, each once.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant, id: of the job, digest: of what is asked, again: true for a repeat,
--          lease: ms that a caller counts as there, gone: ms that it is waited for after that,
--          keep: ms that a repeat finds the call}
-- Returns  {the job's id, "1" when it is another call's, "1" when its answer was sent before}
local calls = keys.calls(a.tenant, a.digest)
local sent = 10000000000000 -- is added to when an answer was sent: those come after all others
sorted(calls, keys.callers())
lasting()

local function oldest(from, to) return redis.call('ZRANGEBYSCORE', calls, from, to, 'LIMIT', 0, 1)[1] end

local id, prior, again = a.id, '', ''
if a.again then
  local there = oldest(now - a.keep, now) or oldest(now + 1, '(' .. sent)
  local before = not there and oldest(sent + now - a.keep, '+inf')
  if there or before then
    id, prior, again = there or before, '1', before and '1' or ''
  end
end
redis.call('ZREMRANGEBYSCORE', calls, '-inf', '(' .. (now - a.keep))
redis.call('ZREMRANGEBYSCORE', calls, sent, '(' .. (sent + now - a.keep))
redis.call('ZADD', calls, now + a.lease, id)
redis.call('PEXPIRE', calls, a.keep + a.lease)
redis.call('ZADD', keys.callers(), now + a.lease + a.gone, id)
return { id, prior, again }
