-- Puts the next lines of an accepted batch into the backlogs. Those that fail by
-- themselves end here.
-- KEYS     see begin.lua
-- ARGV[2]  {batch; most: lines; depths: by pool}
-- Returns  {lines left, tickets}.
local g, list = keys.batch(a.batch), keys.lines(a.batch)
local at = tonumber(redis.call('HGET', g, 'at') or -1)
redis.call('ZCARD', keys.unfolding())
if at < 0 then
  redis.call('ZREM', keys.unfolding(), a.batch)
  return { 0, {} }
end
local ids = redis.call('LRANGE', list, at, at + a.most - 1)
-- What is the same for many lines is written once for all of them.
local jobs = {} -- a line that is gone leaves a hole
local some = redis.call('HGET', g, 'bad')
for i, id in ipairs(ids) do
  local j = load(id, 'e')
  jobs[i] = j
  if j then
    j.o = some and phase[j.s] == 'queued' and redis.call('HGET', j.key, 'o')
    if j.o then fitsEnd(j) else fits(j) end
  end
end
local tenant = redis.call('HGET', g, 't')
if ids[1] then sorted(keys.jobs(tenant), keys.marked(tenant), keys.deadlines(), keys.due()) end
for pool in pairs(a.depths) do
  if not pcall(fitsPool, pool) then a.depths[pool] = nil end
end
spare()
local mine, marked, counts, lines, failed = {}, {}, {}, {}, {}
for i, id in ipairs(ids) do
  local j = jobs[i]
  if j then
    -- Also for one that was canceled before it got here: its count was taken off already.
    counts[j.p] = (counts[j.p] or 0) + 1
    expects(j)
    mine[#mine + 1], mine[#mine + 2] = 0, id
    for _, m in ipairs(marks(id, j.e) or {}) do marked[#marked + 1] = m end
    if j.o then
      failed[#failed + 1] = j
    elseif not final(j.s) then
      local due = j.s == 'scheduled' and redis.call('HGET', j.key, 'due')
      j.k = orderIn(j.k, math.max(now, tonumber(due or 0)), j.dl)
      redis.call('HSET', j.key, 'k', j.k)
      if j.dl > 0 then redis.call('ZADD', keys.deadlines(), j.dl, id) end
      if due then
        redis.call('ZADD', keys.due(), due, id)
      else
        local pool = lines[j.p]
        if not pool then
          pool = { of = {} }
          lines[j.p] = pool
        end
        pool.of[laneOf(j)] = j
        pool[#pool + 1], pool[#pool + 2] = j.k, id
        if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, id) end
      end
    end
  end
end
if #mine > 0 then redis.call('ZADD', keys.jobs(tenant), unpack(mine)) end
if #marked > 0 then marking(tenant, marked) end
for pool, n in pairs(counts) do
  pooled(pool, 'queued', n)
end
for _, j in ipairs(failed) do
  finish(j, 'failed', j.o, 0)
end
for pool, some in pairs(lines) do
  for _, j in pairs(some.of) do ring(j) end
  local _, j = next(some.of)
  redis.call('ZADD', keys.backlog(pool, j.t), unpack(some))
end
local left = redis.call('LLEN', list) - at - #ids
if left <= 0 then
  redis.call('HDEL', g, 'at')
  redis.call('ZREM', keys.unfolding(), a.batch)
else
  redis.call('HSET', g, 'at', at + #ids)
  redis.call('ZADD', keys.unfolding(), now + 5000, a.batch)
end
local tickets = {}
for pool, depth in pairs(a.depths) do
  claim(pool, depth, tickets)
end
return { left, tickets }
