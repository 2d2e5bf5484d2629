-- A job that a worker holds, and that may share its call, looks for one that
-- asks the same and has not ended. It leads when there is none; else it follows:
-- it waits for that one's answer, in no other line and in nobody's hands.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence; digest: of what it asks; depth}
-- Returns  {"lead"}, {"follow", tickets}, {"final"}, {"lost"} or {"gone"}.
local j = load(a.id)
if j then
  fits(j, keys.followers(j.p, a.digest))
end
spare()
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= a.fence or phase[j.s] ~= 'queued' then return { 'lost' } end
local lead = keys.leader(j.p, a.digest)
if j.sh and j.sh ~= a.digest then pass(j, 1) end -- another version of Sluice asked otherwise
local first = redis.call('GET', lead)
first = first and load(first)
if first then fits(first) end
if not first or first.id == j.id or first.sh ~= a.digest or final(first.s) then
  redis.call('SET', lead, j.id)
  redis.call('HSET', j.key, 'sh', a.digest)
  redis.call('HDEL', j.key, 'fo')
  return { 'lead' }
end
leave(j)
vacate(j)
again(j, 0)
redis.call('HSET', j.key, 'fo', a.digest)
redis.call('HINCRBY', j.key, 'f', 1) -- nobody holds it
redis.call('ZADD', keys.followers(j.p, a.digest), j.k, j.id)
if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, j.id) end
if tonumber(j.k) < tonumber(first.k) then
  -- The one that asks for both goes by the better place of the two, also when
  -- it has to wait for its turn again.
  first.k = j.k
  redis.call('HSET', first.key, 'k', j.k)
  replaced(first)
end
moment(j, 'f', now)
become(j, j.s)
local tickets = {}
claim(j.p, a.depth, tickets)
claimOpened(tickets)
return { 'follow', tickets }
