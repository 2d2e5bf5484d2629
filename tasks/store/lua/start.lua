-- An attempt begins: the call is in the record before it is made.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence, lease (ms), depth; alone: its worker runs nothing beside it; by: names this start, sent again after a lost answer it is answered again}
-- Returns  {"ok", number of the call, attempts, started ms, wanted, tickets} where wanted is "1" when a
-- reader wants the text as it comes, or {"final"}, {"lost"}, {"gone"} or {"expired"}.
local j = load(a.id)
if j then (j.dl > 0 and j.dl <= now and fitsEnd or fits)(j) end
spare()
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= a.fence then return { 'lost' } end
local wanted = redis.call('EXISTS', keys.wanted(j.id)) == 1 and '1' or ''
if j.s == 'running' then
  local h = redis.call('HMGET', j.key, 'by', 'n', 'cur')
  if h[1] ~= a.by or not h[3] then return { 'lost' } end
  return { 'ok', j.m, tonumber(h[2]), tonumber(string.match(h[3], ' (%d+)')), wanted, {} }
end
if j.dl > 0 and j.dl <= now then
  expire(j)
  return { 'expired' }
end
leave(j)
redis.call('ZADD', keys.running(j.p), now + a.lease, j.id)
local m = redis.call('HINCRBY', j.key, 'm', 1)
local n = redis.call('HINCRBY', j.key, 'n', 1)
redis.call('HSET', j.key, 'cur', m .. ' ' .. now, 'by', a.by)
redis.call('HSETNX', j.key, 'st', now)
redis.call('HDEL', j.key, 'due', 'al', 'sp')
if a.alone then redis.call('HSET', j.key, 'al', 1) end
become(j, 'running')
local tickets = {}
claim(j.p, a.depth, tickets)
return { 'ok', m, n, now, wanted, tickets }
