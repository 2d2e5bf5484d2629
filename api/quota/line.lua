-- The line of those who were refused and told when to come again: each may have the place that it was told of
-- for a while from then on, before those who come meanwhile.
-- KEYS[1]  the line of a tenant in a pool: a sorted set of what stands for each, by when it was told to come (ms)
-- ARGV[1]  now in ms, or '' for Redis TIME: only tests and the simulator give one
-- ARGV[2]  {who: what stands for it; stays: ms that its place is kept; early: ms before its time that it may come;
--          join: true when it was refused, and then after: ms until its place is expected to be free, each: ms
--          between two of the line at least, front: true for one that came in time, most: how many may stand in the line,
--          longest: ms that a place is kept ahead: who is told more has none}, read as a
-- Returns  of one that comes {1 when its time has come, else 0; how many go before it, or have come to their time as well; ms until the last of the line is
--          gone}, and it stands in the line no more when its time has come; of one that joins {ms until it is to come again}.
local a = cjson.decode(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end
local line = KEYS[1]
local function text(n) return string.format('%.0f', n) end
local last = tonumber(redis.call('ZRANGE', line, -1, -1, 'WITHSCORES')[2] or 0)
local told = tonumber(redis.call('ZSCORE', line, a.who) or '')

if not a.join then
  redis.call('ZREMRANGEBYSCORE', line, '-inf', '(' .. text(now - a.stays))
  if told and told < now - a.stays then told = nil end
  if told and told <= now + a.early then
    redis.call('ZREM', line, a.who)
    return { 1, redis.call('ZCOUNT', line, '-inf', text(now)), math.max(0, last + a.stays - now) }
  end
  local ahead = told and redis.call('ZRANK', line, a.who) or redis.call('ZCARD', line)
  return { 0, ahead, math.max(0, last + a.stays - now) }
end

local at = now + a.after
if told and told > now then
  at = told -- it came too early, and keeps its place
elseif not a.front then
  at = math.max(at, last + a.each)
end
if at > now + a.longest then return { math.ceil(at - now) } end
if redis.call('ZCARD', line) < a.most or told then
  redis.call('PEXPIRE', line, a.longest + a.stays)
  redis.call('ZADD', line, text(at), a.who)
  redis.call('PEXPIRE', line, math.ceil(math.max(at, last) - now) + a.stays)
end
return { math.ceil(at - now) }
