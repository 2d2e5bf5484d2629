-- A job that a worker holds, and that may share its call, looks for one that
-- asks the same and has not ended. It leads when there is none; else it follows:
-- it waits for that one's answer, in no other line and in nobody's hands.
-- KEYS[1] prefix; ARGV[1] id, ARGV[2] fence, ARGV[3] digest of what it asks, ARGV[4] depth, ARGV[5] result ttl ms
-- Returns {"lead"}, {"follow", tickets}, {"final"}, {"lost"} or {"gone"}.
spare()
local j = load(ARGV[1])
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= tonumber(ARGV[2]) or phase[j.s] ~= 'queued' then return { 'lost' } end
local lead = keys.leader(j.p, ARGV[3])
if j.sh and j.sh ~= ARGV[3] then pass(j, 1) end -- another version of Sluice asked otherwise
local first = redis.call('GET', lead)
first = first and load(first)
if not first or first.id == j.id or first.sh ~= ARGV[3] or final(first.s) then
  redis.call('SET', lead, j.id)
  redis.call('HSET', j.key, 'sh', ARGV[3])
  redis.call('HDEL', j.key, 'fo')
  return { 'lead' }
end
leave(j)
redis.call('HSET', j.key, 'fo', ARGV[3])
redis.call('HINCRBY', j.key, 'f', 1) -- nobody holds it
redis.call('ZADD', keys.followers(j.p, ARGV[3]), j.k, j.id)
if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, j.id) end
if tonumber(j.k) < tonumber(first.k) then
  -- The one that asks for both goes by the better place of the two, also when
  -- it has to wait for its turn again.
  redis.call('HSET', first.key, 'k', j.k)
  redis.call('ZADD', keys.backlog(first.p, first.t), 'XX', j.k, first.id)
end
become(j, j.s)
local tickets = {}
claim(j.p, tonumber(ARGV[4]), tonumber(ARGV[5]), tickets)
return { 'follow', tickets }
