-- The caller wants a failed, canceled or expired job once more, under its id.
-- KEYS[1] prefix; ARGV[1] id, ARGV[2] tenant, ARGV[3] result ttl ms, ARGV[4] depth, ARGV[5] shift of order ms,
-- ARGV[6] most waiting jobs or 0, ARGV[7] tokens to set aside or 0, ARGV[8] most tokens a day or 0, ARGV[9] tenant's weight
-- Returns {"ok", tickets}, {"gone"}, {"conflict"}, {"full", waiting} or {"spent", tokens left, ms until midnight UTC}.
local j = load(ARGV[1])
if not j or j.t ~= ARGV[2] then return { 'gone' } end
if not final(j.s) or j.s == 'succeeded' then return { 'conflict' } end
local most, tokens = tonumber(ARGV[6]), tonumber(ARGV[7])
local waiting = tonumber(redis.call('HGET', keys.waiting(), j.t) or 0)
if most > 0 and waiting >= most then return { 'full', waiting } end
local spent = take(j.t, tokens, tonumber(ARGV[8]))
if spent then return spent end
if tokens > 0 then redis.call('HSET', j.key, 'q', ARGV[7] .. ' ' .. today) end
weigh(j.t, ARGV[9])
redis.call('PERSIST', j.key)
redis.call('ZREM', keys.expiring(), j.t .. '|' .. j.id)
-- Its deadline served the first time; kept, it would expire the job at once.
redis.call('HDEL', j.key, 'o', 'fin', 'exp', 'dl', 'st', 'n', 'fo')
-- It begins again with its own model.
local h = redis.call('HMGET', j.key, 'p0', 'fi', 'fb')
if h[1] then
  j.p, j.fb = h[1], tonumber(h[2]) + tonumber(h[3] or 0)
  redis.call('HSET', j.key, 'p', j.p, 'fb', j.fb)
  redis.call('HDEL', j.key, 'p0', 'fi', 'nb')
end
j.k = now + ARGV[5]
redis.call('HSET', j.key, 'k', j.k)
if j.c then
  local g = keys.batch(j.c)
  redis.call('HDEL', g, 'ended')
  redis.call('PERSIST', g)
  redis.call('PERSIST', keys.lines(j.c))
end
become(j, 'queued')
backlog(j)
local tickets = {}
claim(j.p, tonumber(ARGV[4]), tonumber(ARGV[3]), tickets)
return { 'ok', tickets }
