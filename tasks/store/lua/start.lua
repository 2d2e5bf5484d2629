-- An attempt begins: the call is in the record before it is made.
-- KEYS[1] prefix; ARGV[1] id, ARGV[2] fence, ARGV[3] lease ms, ARGV[4] result ttl ms, ARGV[5] depth,
-- ARGV[6] names this start: sent again after a lost answer, it is answered again
-- Returns {"ok", number of the call, attempts, started ms, wanted, tickets} where wanted is "1" when a
-- reader wants the text as it comes, or {"final"}, {"lost"}, {"gone"} or {"expired"}.
spare()
local ttl = tonumber(ARGV[4])
local j = load(ARGV[1])
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= tonumber(ARGV[2]) then return { 'lost' } end
local wanted = redis.call('EXISTS', keys.wanted(j.id)) == 1 and '1' or ''
if j.s == 'running' then
  local h = redis.call('HMGET', j.key, 'by', 'n', 'cur')
  if h[1] ~= ARGV[6] or not h[3] then return { 'lost' } end
  return { 'ok', j.m, tonumber(h[2]), tonumber(string.match(h[3], ' (%d+)')), wanted, {} }
end
if j.dl > 0 and j.dl <= now then
  expire(j, ttl)
  return { 'expired' }
end
leave(j)
redis.call('ZADD', keys.running(j.p), now + ARGV[3], j.id)
local m = redis.call('HINCRBY', j.key, 'm', 1)
local n = redis.call('HINCRBY', j.key, 'n', 1)
redis.call('HSET', j.key, 'cur', m .. ' ' .. now, 'by', ARGV[6])
redis.call('HSETNX', j.key, 'st', now)
redis.call('HDEL', j.key, 'due')
become(j, 'running')
local tickets = {}
claim(j.p, tonumber(ARGV[5]), ttl, tickets)
return { 'ok', m, n, now, wanted, tickets }
