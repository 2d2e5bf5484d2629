-- The caller wants a failed, canceled or expired job once more, under its id.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; id, tenant, depth; shift: of order, ms; most: waiting jobs, or 0; tokens: to set aside, or 0;
--          daily: most tokens a day, or 0; bytes: of the body to count, or 0; widest: most bytes, or 0; weight: the tenant's}
-- Returns  {"ok", tickets}, {"gone"}, {"conflict"}, {"brim"}, {"full", waiting}, {"heavy", bytes} or {"spent", tokens left, ms until midnight UTC}.
local said = answered()
if said then return said end
local j = load(a.id)
if not j or j.t ~= a.tenant then return { 'gone' } end
if not final(j.s) or j.s == 'succeeded' or not j.br and redis.call('HEXISTS', j.key, 'b') == 0 then return { 'conflict' } end
fitsEnd(j)
lasting()
local first = redis.call('HGET', j.key, 'p0') or j.p -- where it begins again
fits({ p = first, t = j.t, qb = a.bytes > 0 })
local bound = expected(redis.call('HGET', j.key, 'e'))
if crowded(0, { [first] = bound }, { [first] = 1 }) then return { 'brim' } end
local refusal = admit(j.t, 1, a.tokens, a.most, a.daily, a.bytes, a.widest)
if refusal then return refusal end
aside(j, a.tokens, a.bytes)
promises(first, bound, 1)
weigh(j.t, a.weight)
redis.call('PERSIST', j.key)
redis.call('ZREM', keys.expiring(), j.t .. '|' .. j.id)
-- Its deadline served the first time; kept, it would expire the job at once.
redis.call('HDEL', j.key, 'o', 'fin', 'exp', 'dl', 'st', 'n', 'fo', 'lw', 'al', 'sp')
-- It begins again with its own model.
local h = redis.call('HMGET', j.key, 'p0', 'fi', 'fb')
if h[1] then
  j.p, j.fb = h[1], tonumber(h[2]) + tonumber(h[3] or 0)
  redis.call('HSET', j.key, 'p', j.p, 'fb', j.fb)
  redis.call('HDEL', j.key, 'p0', 'fi', 'nb')
end
j.k = now + a.shift
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
claim(j.p, a.depth, tickets)
return answer({ 'ok', tickets })
