-- Puts the next lines of an accepted batch into the backlogs.
-- KEYS[1] prefix; ARGV[1] batch, ARGV[2] how many, ARGV[3] result ttl ms, then pairs of pool and depth
-- Returns {lines left, tickets}.
spare()
local g, list = P .. 'g:' .. ARGV[1], P .. 'gl:' .. ARGV[1]
local at = tonumber(redis.call('HGET', g, 'at') or -1)
if at < 0 then
  redis.call('ZREM', P .. 'unfold', ARGV[1])
  return { 0, {} }
end
local ids = redis.call('LRANGE', list, at, at + ARGV[2] - 1)
for _, id in ipairs(ids) do
  local j = load(id)
  if j then
    -- Also for one that was canceled before it got here: its count was taken off already.
    redis.call('HINCRBY', P .. 'n:' .. j.p, 'queued', 1)
    redis.call('ZADD', P .. 'tn:' .. j.t, 0, id)
    if not final(j.s) then
      j.k = now + j.k
      redis.call('HSET', j.key, 'k', j.k)
      if j.dl > 0 then redis.call('ZADD', P .. 'dl', j.dl, id) end
      local due = redis.call('HGET', j.key, 'due')
      if j.s == 'scheduled' and due then redis.call('ZADD', P .. 'due', due, id) else backlog(j) end
    end
  end
end
local left = redis.call('LLEN', list) - at - #ids
if left <= 0 then
  redis.call('HDEL', g, 'at')
  redis.call('ZREM', P .. 'unfold', ARGV[1])
else
  redis.call('HSET', g, 'at', at + #ids)
  redis.call('ZADD', P .. 'unfold', now + 5000, ARGV[1])
end
local tickets = {}
for a = 4, #ARGV, 2 do
  claim(ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[3]), tickets)
end
return { left, tickets }
