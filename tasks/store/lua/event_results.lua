-- Reads the results of jobs as far as events carry them.
-- KEYS[1] prefix; ARGV[1] most bytes, then job ids
-- Returns for each job its result, "" when it has none, or its beginning, one byte longer than most.
local most, out = tonumber(ARGV[1]), {}
for a = 2, #ARGV do
  out[#out + 1] = string.sub(redis.call('HGET', keys.job(ARGV[a]), 'r') or '', 1, most + 1)
end
return out
