-- Closes every gap between record, backlog and task; any process may run it.
-- KEYS     see begin.lua
-- ARGV[2]  {lease (ms); most: of each; alone: calls lost with their worker from which on a job runs alone; losses: that end it; depths: of the pools to look after, by pool;
--          shares: of their lanes, by pool}
-- Returns  {tickets, looks, next, lost, unfold, stale, late, often, loose}: tickets to hand to Asynq, looks at tickets handed out
-- long ago (id, fence, pool each), ms until the next job is due or -1, or 0 when there is more to do than one sweep does,
-- how many jobs a dead worker gave back, batches to go on unfolding, batches whose writer is gone, jobs that expired and jobs whose worker was lost
-- too often (id, tenant, pool, attempts each), and where bodies lie that are of use no more.
fitsSweep()
spare()
local tickets, looks, lost, often = {}, {}, 0, {}

-- lose counts a call that was lost with its worker, and reports whether it was one
-- too many. A job that is to run alone is not blamed for a call that did not, nor
-- any for one whose worker was stopping.
local function lose(j)
  local h = redis.call('HMGET', j.key, 'lw', 'al', 'sp')
  local losses = tonumber(h[1] or 0)
  if h[3] or losses >= a.alone and not h[2] then return false end
  redis.call('HSET', j.key, 'lw', losses + 1)
  return losses + 1 >= a.losses
end

-- upto is what a moment has come for, most of it at once; more says that the next
-- sweep has to come at once.
local more = false
local function upto(key)
  local found = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, a.most)
  more = more or #found == a.most
  return found
end

for _, id in ipairs(upto(keys.deadlines())) do
  local j, bad = sound(id, fitsEnd)
  if j and not final(j.s) and j.s ~= 'running' then expire(j) end
  redis.call('ZREM', keys.deadlines(), id)
  if bad then broken(id, keys.deadlines()) end -- a running one is cut off by its worker, or expires when it comes back
end

for _, id in ipairs(upto(keys.due())) do
  redis.call('ZREM', keys.due(), id)
  local j, bad = sound(id, fits)
  if bad then
    broken(id, keys.due())
  elseif j and phase[j.s] == 'queued' then
    -- One that was never put off stands there for its tenant, see passOver in backlog.lua.
    if redis.call('HDEL', j.key, 'due') == 1 or not (redis.call('ZSCORE', keys.handed(j.p), id) or redis.call('ZSCORE', keys.held(j.p), id)) then
      backlog(j)
      if j.s == 'scheduled' then become(j, 'queued') else become(j, j.s) end
    end
  end
end

for _, member in ipairs(upto(keys.expiring())) do
  local bar = string.find(member, '|', 1, true)
  if not pcall(forget, string.sub(member, 1, bar - 1), string.sub(member, bar + 1), 'expired') then
    redis.call('ZADD', keys.expiring(), now + 60000, member)
  end
end

-- Release 0.1.0 puts no job into the index of metadata. Each of its processes sweeps each
-- second: what was created up to a minute after is looked for without the index.
local grace, former = graced(keys.swept(), keys.grace(), a.lease)
if former then redis.pcall('SET', keys.indexed(), string.format('%.0f', now + 60000)) end

for pool, depth in pairs(a.depths) do
  if not pcall(fitsPool, pool) then
    a.depths[pool] = nil -- of another type: the other pools go on
  elseif not grace then
    for _, where in ipairs({ keys.held(pool), keys.running(pool) }) do
      for _, id in ipairs(upto(where)) do
        redis.call('ZREM', where, id)
        local j, bad = sound(id, fitsEnd)
        if bad then
          broken(id, keys.running(pool))
        elseif not j then
          missed(id, where == keys.held(pool) and 'queued' or 'running', pool)
        elseif not final(j.s) then
          if where == keys.held(pool) then onStage(j, -1) end
          redis.call('HINCRBY', j.key, 'f', 1)
          local called, ends = j.s == 'running', false
          if called then
            ends = lose(j)
            redis.call('HINCRBY', j.key, 'n', -1) -- its worker's fault, not the job's
            unseen(j, 0, 'worker_lost', string.format('"x":%.0f,', now))
          end
          lost = lost + 1
          vacate(j)
          if ends then
            for _, v in ipairs({ id, j.t, j.p, tonumber(redis.call('HGET', j.key, 'n') or 0) }) do often[#often + 1] = v end
            finish(j, 'failed', '{"error":{"code":"worker_lost_too_often","message":"the worker died during the call each time, also when it made no other","maybe_billed":true}}', unknown)
            mishap(j.p, 'j', 'worker_lost_too_often', id)
          elseif j.dl > 0 and j.dl <= now then
            expire(j, called, unknown)
          else
            again(j, not called and 0 or nil)
            backlog(j)
            if called then become(j, 'retrying') else become(j, j.s) end
          end
        end
      end
    end
  end
end

-- A tenant or user at its limit is looked at again: a place may have been left without a word, by a
-- release that knows of none, and the limit may be another by now.
local function standing(id)
  local h = redis.pcall('HMGET', keys.job(id), 's', 'p')
  if h.err then return true end
  if phase[h[1]] ~= 'queued' then return phase[h[1]] == 'running' end
  if without('HEXISTS', keys.paused(), h[2]) == 1 then return false, true end -- it would keep its place for as long as that lasts
  return without('ZSCORE', keys.handed(h[2]), id) or without('ZSCORE', keys.held(h[2]), id)
end
for _, owner in ipairs(upto(keys.atLimit())) do
  redis.call('ZREM', keys.atLimit(), owner)
  for _, id in ipairs(redis.pcall('ZRANGE', keys.outs(owner), 0, a.most - 1)) do
    local stands, taken = standing(id)
    if stands then redis.call('ZADD', keys.outs(owner), now, id) else redis.call('ZREM', keys.outs(owner), id) end
    if taken then redis.call('HSET', keys.job(id), 'pl', 0) end
  end
  local tenant = string.match(owner, '^[^/]*')
  if not reviewed(tenant) then settled(tenant, now) end -- it may have ended by itself
  if crammed(owner) then
    -- Of very many, five sweeps a second look at a part.
    redis.call('ZADD', keys.atLimit(), now + math.max(1000, math.ceil(redis.call('ZCARD', keys.atLimit()) * 200 / a.most)), owner)
  else
    for _ = 1, without('ZCARD', keys.passed(owner)) or 0 do letIn(owner) end
  end
end
more = more or comings <= 0

for pool, depth in pairs(a.depths) do
  noteShares(pool, a.shares[pool])
  meet(pool)
  restage(pool)
  more = claim(pool, depth, tickets) or more
  for _, id in ipairs(upto(keys.handed(pool))) do
    local j, bad = sound(id)
    if j then
      redis.call('ZADD', keys.handed(pool), now + 10000, id)
      looks[#looks + 1] = id
      looks[#looks + 1] = j.f
      looks[#looks + 1] = pool
    else
      redis.call('ZREM', keys.handed(pool), id)
      if bad then broken(id, keys.running(pool)) else missed(id, 'queued', pool) end
    end
  end
end

local first = redis.call('ZRANGE', keys.due(), 0, 0, 'WITHSCORES')
local wait = -1
if first[2] then wait = math.max(0, first[2] - now) end
local late, waiting = {}, upto(keys.unfolding())
local stale = upto(keys.staging())
if more or redis.call('LLEN', keys.late()) > a.most then wait = 0 end
for _, id in ipairs(redis.call('LRANGE', keys.late(), 0, a.most - 1)) do
  local h = redis.pcall('HMGET', keys.job(id), 't', 'p', 'n')
  if h[1] then
    for _, v in ipairs({ id, h[1], h[2], tonumber(h[3] or 0) }) do late[#late + 1] = v end
  end
end
redis.call('LTRIM', keys.late(), a.most, -1)
return { tickets, looks, wait, lost, waiting, stale, late, often, loose }
