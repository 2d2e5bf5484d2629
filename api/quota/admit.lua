-- Takes submits from a tenant's allowance, all that are asked or none; what is asked may be negative, to give back.
-- KEYS[1] the tenant's account: a hash of level (of the bucket, in submits * 60000), at (ms)
-- ARGV[1] submits, ARGV[2] submits a minute
-- Returns {1 when they are refused, else 0; submits left; ms until they would pass; ms until the bucket is full}.
local submits, perMinute = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
-- One submit is 60000 units, and each millisecond adds as many units as submits are allowed a minute: whole numbers only.
local most = perMinute * 60000
local level = most
if kept[1] then level = math.min(most, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * perMinute) end

local refused, wait = 0, 0
local want = submits * 60000
if want > 0 and level < want then
  refused, wait = 1, math.ceil((want - level) / perMinute)
else
  level = math.min(most, level - want)
  redis.call('HSET', KEYS[1], 'level', string.format('%d', level), 'at', string.format('%d', now))
  redis.call('PEXPIRE', KEYS[1], 120000) -- an account that nobody touches says nothing once its bucket is full
end
return { refused, math.floor(level / 60000), wait, math.ceil((most - level) / perMinute) }
