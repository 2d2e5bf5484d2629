-- The caller changes a job that waits: its place by its priority, its deadline, and what
-- its envelope says.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; id, tenant; was: the SHA-1 of the envelope that the new one was made of;
--          shift: ms that its new lane moves its order by, where it changes its lane; deadline: ms, 0 for none, or null where it stays}
-- ARGV[3]  the new envelope
-- Returns  {"ok"}, {"gone"}, {"conflict"}, or {"changed"}: another envelope stands there by now
local said = answered()
if said then return said end
local j = load(a.id)
if not j or foreign(a.tenant, j.t, j.key) then return { 'gone' } end
if phase[j.s] ~= 'queued' then return { 'conflict' } end
local was = redis.call('HGET', j.key, 'e')
if redis.sha1hex(was) ~= a.was then return { 'changed' } end
local old, all = marks(j.id, was), marks(j.id, ARGV[3])
fits(j, keys.deadlines(), keys.marked(j.t))
redis.call('HSET', j.key, 'e', ARGV[3])
if old then redis.call('ZREM', keys.marked(j.t), unpack(old)) end
if all then marking(j.t, all) end
if a.shift or a.deadline then
  local shift = laneOf(j).shift
  local order = tonumber(j.k) - shift -- 0: a line of a batch that has its order when it is unfolded
  if a.deadline and order ~= 0 then order = orderIn(0, math.max(j.ct, tonumber(redis.call('HGET', j.key, 'due') or 0)), a.deadline) end
  j.k = order + (a.shift or shift)
  redis.call('HSET', j.key, 'k', j.k)
  replaced(j)
  if j.fb then redis.call('ZADD', keys.fallbacks(j.p), 'XX', j.k, j.id) end
  if j.fo then redis.call('ZADD', keys.followers(j.p, j.fo), 'XX', j.k, j.id) end
end
if a.deadline == 0 then
  redis.call('HDEL', j.key, 'dl')
  redis.call('ZREM', keys.deadlines(), j.id)
elseif a.deadline then
  redis.call('HSET', j.key, 'dl', string.format('%.0f', a.deadline))
  redis.call('ZADD', keys.deadlines(), a.deadline, j.id)
end
note(j, redis.call('HINCRBY', j.key, 'v', 1))
return answer({ 'ok' })
