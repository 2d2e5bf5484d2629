-- Writes lines of a batch that nobody sees yet.
-- KEYS[1] prefix; ARGV[1] batch, ARGV[2] ms until an abandoned one is swept, then for each job 11 values:
--   id, tenant, pool, shift of order ms, status, due ms, deadline ms, envelope, body, fallback models, tokens to set aside or 0
-- Returns 1, or 0 when the batch is not being written. The same lines sent again, after a lost answer, stay as they are.
if not redis.call('ZSCORE', keys.staging(), ARGV[1]) then return 0 end
redis.call('ZADD', keys.staging(), now + ARGV[2], ARGV[1])
if not ARGV[3] or redis.call('EXISTS', keys.job(ARGV[3])) == 1 then return 1 end
local ids, tokens = {}, 0
for a = 3, #ARGV, 11 do
  local key = keys.job(ARGV[a])
  ids[#ids + 1] = ARGV[a]
  redis.call('HSET', key, 'e', ARGV[a + 7], 'b', ARGV[a + 8], 's', ARGV[a + 4], 't', ARGV[a + 1],
    'p', ARGV[a + 2], 'k', ARGV[a + 3], 'c', ARGV[1], 'ct', now)
  if ARGV[a + 9] ~= '0' then redis.call('HSET', key, 'fb', ARGV[a + 9]) end
  if ARGV[a + 5] ~= '0' then redis.call('HSET', key, 'due', ARGV[a + 5]) end
  if ARGV[a + 6] ~= '0' then redis.call('HSET', key, 'dl', ARGV[a + 6]) end
  if ARGV[a + 10] ~= '0' then
    redis.call('HSET', key, 'q', ARGV[a + 10])
    tokens = tokens + ARGV[a + 10]
  end
end
if tokens > 0 then redis.call('HINCRBY', keys.batch(ARGV[1]), 'q', string.format('%.0f', tokens)) end
redis.call('RPUSH', keys.lines(ARGV[1]), unpack(ids))
return 1
