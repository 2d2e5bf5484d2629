-- Takes submits from a tenant's allowance, all that are asked or none; what is asked may be negative, to give back.
-- KEYS[1]  the tenant's account: a hash of level (of the bucket, in submits * 60000), at (ms), and by asker what its
--          last question but a refused one was answered
-- ARGV[1]  now in ms, or '' for Redis TIME: only tests and the simulator give one
-- ARGV[2]  {by: the asker, who asks one thing at a time; n: counts what it asks, a question that comes again after its
--          answer was lost is answered the same; submits; per_minute: submits allowed}, read as a
-- Returns  {1 when they are refused, else 0; submits left; ms until they would pass; ms until the bucket is full}.
local a = cjson.decode(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end

local kept = redis.call('HMGET', KEYS[1], 'level', 'at', a.by)
if kept[3] then
  local said = cjson.decode(kept[3])
  if said[5] == a.n then return { said[1], said[2], said[3], said[4] } end
end
-- One submit is 60000 units, and each millisecond adds as many units as submits are allowed a minute: whole numbers only.
local most = a.per_minute * 60000
local level = most
if kept[1] then level = math.min(most, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * a.per_minute) end

-- reply is what is answered.
local function reply(refused, wait)
  return { refused, math.floor(level / 60000), wait, math.ceil((most - level) / a.per_minute) }
end

local want = a.submits * 60000
if want > 0 and level < want then
  return reply(1, math.ceil((want - level) / a.per_minute))
end
level = math.min(most, level - want)
local said = reply(0, 0)
said[5] = a.n
redis.call('HSET', KEYS[1], 'level', string.format('%d', level), 'at', string.format('%d', now), a.by, cjson.encode(said))
said[5] = nil
redis.call('PEXPIRE', KEYS[1], 120000) -- an account that nobody touches says nothing once its bucket is full
if redis.call('HLEN', KEYS[1]) > 66 then -- of processes that have ended, most of them
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if field ~= 'level' and field ~= 'at' and field ~= a.by then redis.call('HDEL', KEYS[1], field) end
  end
end
return said
