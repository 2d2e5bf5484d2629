-- Takes submits from a tenant's allowance, all that are asked or none; what is asked may be negative, to give back.
-- KEYS[1]  the tenant's account: a hash of level (of the bucket, in submits * 60000), at (ms)
-- ARGV[1]  now in ms, or '' for Redis TIME: only tests and the simulator give one
-- ARGV[2]  {submits; per_minute: submits allowed}, read as a
-- Returns  {1 when they are refused, else 0; submits left; ms until they would pass; ms until the bucket is full}.
local a = cjson.decode(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end

local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
-- One submit is 60000 units, and each millisecond adds as many units as submits are allowed a minute: whole numbers only.
local most = a.per_minute * 60000
local level = most
if kept[1] then level = math.min(most, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * a.per_minute) end

local refused, wait = 0, 0
local want = a.submits * 60000
if want > 0 and level < want then
  refused, wait = 1, math.ceil((want - level) / a.per_minute)
else
  level = math.min(most, level - want)
  redis.call('HSET', KEYS[1], 'level', string.format('%d', level), 'at', string.format('%d', now))
  redis.call('PEXPIRE', KEYS[1], 120000) -- an account that nobody touches says nothing once its bucket is full
end
return { refused, math.floor(level / 60000), wait, math.ceil((most - level) / a.per_minute) }
