-- A worker's attempt has ended, with a final status or another try.
-- KEYS[1] prefix
-- ARGV[1] id, ARGV[2] fence, ARGV[3] what: succeeded, failed, retry, hand_back
-- ARGV[4] outcome JSON, ARGV[5] result, ARGV[6] details of the call as JSON, or ""
-- ARGV[7] result ttl ms, ARGV[8] delay ms until the next try, ARGV[9] depth
-- ARGV[10] the pool of a fallback model to go to, or "", ARGV[11] fallback models gone to with it, ARGV[12] left after it
-- ARGV[13] tokens that the call used, -1 when nobody knows
-- Returns {"ok", tickets}, {"final"}, {"lost"} or {"gone"}.
spare()
local what, ttl, delay = ARGV[3], tonumber(ARGV[7]), tonumber(ARGV[8])
local j = load(ARGV[1])
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= tonumber(ARGV[2]) then return { 'lost' } end
local called = j.s == 'running'
local used = called and tonumber(ARGV[13]) or 0
if called then
  close(j, now, ARGV[6])
end
if what == 'succeeded' or what == 'failed' then
  if what == 'succeeded' then
    if not called then return { 'lost' } end
    redis.call('HSET', j.key, 'r', ARGV[5])
    if j.sh and redis.call('EXISTS', keys.followers(j.p, j.sh)) == 1 then
      redis.call('SET', keys.answer(j.sh), ARGV[5], 'PX', math.min(600000, ttl))
      redis.call('HSET', j.key, 'ca', j.sh)
    end
    redis.call('HDEL', j.key, 'b') -- the prompt has served; only a job that failed may be asked again
  end
  finish(j, what, ARGV[4], ttl, used)
else
  leave(j)
  redis.call('HINCRBY', j.key, 'f', 1) -- whoever still holds it has lost it
  if what == 'hand_back' and called then redis.call('HINCRBY', j.key, 'n', -1) end
  if j.dl > 0 and j.dl <= now + delay then
    expire(j, ttl, called, used)
  elseif ARGV[10] ~= '' then
    charge(j, used)
    if called then become(j, 'retrying') end
    divert(j, ARGV[10], ARGV[11], ARGV[12])
  else
    charge(j, used)
    if delay > 0 then
      redis.call('HSET', j.key, 'due', now + delay)
      redis.call('ZADD', keys.due(), now + delay, j.id)
    else
      backlog(j)
    end
    if called then become(j, 'retrying') else become(j, j.s) end
  end
end
local tickets = {}
claim(j.p, tonumber(ARGV[9]), ttl, tickets)
return { 'ok', tickets }
