-- Writes lines of a batch that nobody sees yet.
-- KEYS     see begin.lua
-- ARGV[2]  {batch; stale: ms until an abandoned one is swept; age: ms that one may be written; widest: most bytes of its tenant's bodies, or 0}
-- ARGV[3]  and on, for each job: id, tenant, pool, shift of order ms, not_before ms or 0, deadline ms, envelope, body,
--          fallback models, tokens to set aside or 0, bytes of the body to count or 0, field of the body, outcome as
--          JSON of one that fails by itself or "", µs of the pool's allowance that the call is expected to cost or 0
-- Returns  {"ok"}, {"gone"} when the batch is not being written, {"leaving"} when its tenant is being deleted, {"brim"} or {"heavy", bytes}. The same lines sent again, after a lost answer, stay as they are.
if not redis.call('ZSCORE', keys.staging(), a.batch) then return { 'gone' } end
local of = redis.call('HMGET', keys.batch(a.batch), 'ct', 'us', 't')
if ARGV[4] and of[3] ~= ARGV[4] then return { 'gone' } end -- another tenant's
local last = of[1] + a.age
if now >= last then return { 'gone' } end
if ARGV[4] and closed(ARGV[4]) then return { 'leaving' } end
local written = not ARGV[3] or redis.call('EXISTS', keys.job(ARGV[3])) == 1
each('HLEN', keys.batch(a.batch))
if ARGV[4] then fitsTenant(ARGV[4]) end
each('LLEN', keys.lines(a.batch))
local total, size, bounds, jobs = 0, 0, {}, {}
for i = 3, #ARGV, 14 do
  each('HLEN', keys.job(ARGV[i]))
  local pool, envelope = ARGV[i + 2], ARGV[i + 6]
  total, size = total + ARGV[i + 10], size + #envelope + #ARGV[i + 7] + overhead
  bounds[pool], jobs[pool] = (bounds[pool] or 0) + expected(envelope), (jobs[pool] or 0) + 1
end
if not written and crowded(size, bounds, jobs) then return { 'brim' } end
local refusal = not written and heavy(ARGV[4], total, a.widest)
if refusal then return refusal end
redis.call('ZADD', keys.staging(), math.min(now + a.stale, last), a.batch)
if written then return { 'ok' } end
weighs(ARGV[4], total)
took(size)
for pool, bound in pairs(bounds) do promises(pool, bound, jobs[pool]) end
local ids, tokens, money, bad = {}, 0, 0, false
for i = 3, #ARGV, 14 do
  local id, tenant, pool, shift, due, deadline, envelope, body, fallbacks, reserve, bytes, field, outcome, cost = unpack(ARGV, i, i + 13)
  local status = tonumber(due) > now and 'scheduled' or 'queued'
  local key = keys.job(id)
  ids[#ids + 1] = id
  redis.call('HSET', key, 'e', envelope, field, body, 's', status, 't', tenant, 'p', pool, 'k', shift, 'c', a.batch, 'ct', now)
  if of[2] then redis.call('HSET', key, 'us', of[2]) end
  if fallbacks ~= '0' then redis.call('HSET', key, 'fb', fallbacks) end
  if status == 'scheduled' then redis.call('HSET', key, 'due', due) end
  if deadline ~= '0' then redis.call('HSET', key, 'dl', deadline) end
  if reserve ~= '0' then
    redis.call('HSET', key, 'q', reserve)
    tokens, money = tokens + reserve, money + pledge(envelope)
  end
  if bytes ~= '0' then redis.call('HSET', key, 'qb', bytes) end
  if cost ~= '0' then redis.call('HSET', key, 'cs', cost) end
  if outcome ~= '' then
    redis.call('HSET', key, 'o', outcome)
    bad = true
  end
end
if bad then redis.call('HSET', keys.batch(a.batch), 'bad', 1) end
if tokens > 0 then redis.call('HINCRBY', keys.batch(a.batch), 'q', string.format('%.0f', tokens)) end
if money > 0 then redis.call('HINCRBY', keys.batch(a.batch), 'qm', string.format('%.0f', money)) end
redis.call('RPUSH', keys.lines(a.batch), unpack(ids))
return { 'ok' }
