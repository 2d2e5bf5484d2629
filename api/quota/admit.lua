-- Takes from a tenant's allowances, all that is asked or nothing; what is asked may be negative, to give back.
-- KEYS[1] the tenant's account: a hash of level (of the bucket, in submits * 60000), at (ms), day (UTC), used (tokens)
-- ARGV[1] submits, ARGV[2] submits a minute or 0, ARGV[3] tokens, ARGV[4] tokens a day or 0,
-- ARGV[5] absent, or the UTC day of an estimate: settle, so never refuse, and skip an estimate of another day
-- Returns {refused by: 0 none, 1 submits, 2 tokens; submits left; ms until the submits would pass;
--   ms until the bucket is full; tokens left; ms until midnight UTC}.
local submits, perMinute, tokens, perDay = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local settle = ARGV[5] and tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local today = math.floor(now / 86400000)
local midnight = (today + 1) * 86400000 - now

local kept = redis.call('HMGET', KEYS[1], 'level', 'at', 'day', 'used')
-- One submit is 60000 units, and each millisecond adds as many units as submits are allowed a minute: whole numbers only.
local most = perMinute * 60000
local level = most
if kept[1] then level = math.min(most, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * perMinute) end
local used = 0
if kept[3] and tonumber(kept[3]) == today then used = tonumber(kept[4]) end
if settle and settle ~= today then tokens = math.max(0, tokens) end

local refused, wait = 0, 0
local want = submits * 60000
if perMinute > 0 and want > 0 and level < want then
  refused, wait = 1, math.ceil((want - level) / perMinute)
elseif perDay > 0 and tokens > 0 and not settle and used + tokens > perDay then
  refused = 2
else
  if perMinute > 0 then level = math.min(most, level - want) end
  if perDay > 0 then used = math.max(0, used + tokens) end
  redis.call('HSET', KEYS[1], 'level', string.format('%d', level), 'at', string.format('%d', now),
    'day', string.format('%d', today), 'used', string.format('%d', used))
  -- An account that nobody touches says nothing once its bucket is full and its day is over.
  local life = 120000
  if used > 0 then life = math.max(life, midnight) end
  redis.call('PEXPIRE', KEYS[1], life)
end
local full = 0
if perMinute > 0 then full = math.ceil((most - level) / perMinute) end
return { refused, math.floor(level / 60000), wait, full, math.max(0, perDay - used), midnight }
