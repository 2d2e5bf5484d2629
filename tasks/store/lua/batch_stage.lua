-- Writes lines of a batch that nobody sees yet.
-- KEYS     see begin.lua
-- ARGV[2]  {batch; stale: ms until an abandoned one is swept}
-- ARGV[3]  and on, for each job: id, tenant, pool, shift of order ms, not_before ms or 0, deadline ms, envelope, body,
--          fallback models, tokens to set aside or 0
-- Returns  1, or 0 when the batch is not being written. The same lines sent again, after a lost answer, stay as they are.
if not redis.call('ZSCORE', keys.staging(), a.batch) then return 0 end
local written = not ARGV[3] or redis.call('EXISTS', keys.job(ARGV[3])) == 1
each('HLEN', keys.batch(a.batch))
each('LLEN', keys.lines(a.batch))
for i = 3, #ARGV, 10 do each('HLEN', keys.job(ARGV[i])) end
redis.call('ZADD', keys.staging(), now + a.stale, a.batch)
if written then return 1 end
local ids, tokens = {}, 0
for i = 3, #ARGV, 10 do
  local id, tenant, pool, shift, due, deadline, envelope, body, fallbacks, reserve = unpack(ARGV, i, i + 9)
  local status = tonumber(due) > now and 'scheduled' or 'queued'
  local key = keys.job(id)
  ids[#ids + 1] = id
  redis.call('HSET', key, 'e', envelope, 'b', body, 's', status, 't', tenant, 'p', pool, 'k', shift, 'c', a.batch, 'ct', now)
  if fallbacks ~= '0' then redis.call('HSET', key, 'fb', fallbacks) end
  if status == 'scheduled' then redis.call('HSET', key, 'due', due) end
  if deadline ~= '0' then redis.call('HSET', key, 'dl', deadline) end
  if reserve ~= '0' then
    redis.call('HSET', key, 'q', reserve)
    tokens = tokens + reserve
  end
end
if tokens > 0 then redis.call('HINCRBY', keys.batch(a.batch), 'q', string.format('%.0f', tokens)) end
redis.call('RPUSH', keys.lines(a.batch), unpack(ids))
return 1
