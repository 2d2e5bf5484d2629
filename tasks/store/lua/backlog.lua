-- The order of work, and nothing else: what waits, whose turn it is, what is
-- handed out.

-- weigh notes a tenant's weight as the configuration has it now. Most have 1,
-- which takes no room.
local function weigh(tenant, weight)
  weight = tostring(weight)
  local noted = redis.pcall('HGET', keys.weights(), tenant) or '1'
  if type(noted) == 'table' then return end
  weights[tenant] = weight
  if noted == weight then return end
  if weight == '1' then
    redis.call('HDEL', keys.weights(), tenant)
  else
    redis.call('HSET', keys.weights(), tenant, weight)
  end
end

-- ring gives a job's tenant a turn in its pool, if it has none.
local function ring(j)
  local turns = keys.ring(j.p)
  if not redis.call('ZSCORE', turns, j.t) then
    -- A tenant that comes back starts at the present turn: idling saves nothing up.
    local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
    redis.call('ZADD', turns, first[2] or without('GET', keys.turn(j.p)) or 0, j.t)
  end
end

-- backlog puts a job where the next pick finds it.
local function backlog(j)
  redis.call('ZADD', keys.backlog(j.p, j.t), j.k, j.id)
  if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, j.id) end
  ring(j)
end

-- pick takes the next job out of a pool's backlogs and returns its id, or nil. first is the
-- first of the ring, if that is known.
-- This is the whole of the fairness between tenants: each has a turn, the
-- lowest goes next and moves on by 1/weight. A rule that charges by cost
-- replaces this function and nothing else.
local function pick(pool, first)
  local ring = keys.ring(pool)
  while true do
    first = first or redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local tenant, turn = first[1], first[2]
    first = nil
    if not tenant then return nil end
    local q = keys.backlog(pool, tenant)
    local popped = redis.pcall('ZPOPMIN', q) -- one of another type has no turn
    local step = 1 / weightOf(tenant)
    if popped[1] and redis.call('EXISTS', q) == 1 then
      redis.call('ZINCRBY', ring, step, tenant)
    else
      redis.call('ZREM', ring, tenant)
    end
    if popped[1] then
      redis.pcall('SET', keys.turn(pool), turn + step) -- a turn that is not noted holds nothing up
      return popped[1]
    end
  end
end

-- vacant is how many more of a pool's jobs may be between the backlog and the provider: of
-- depth, and none while it is paused.
local function vacant(pool, depth)
  local room = depth - redis.call('ZCARD', keys.handed(pool)) - redis.call('ZCARD', keys.held(pool))
  if room <= 0 or without('HEXISTS', keys.paused(), pool) == 1 then return 0 end
  return room
end

-- handOut hands a job out under a fence: it appends id, fence and pool to tickets.
local function handOut(j, fence, tickets)
  redis.call('ZADD', keys.handed(j.p), now + 10000, j.id)
  for _, v in ipairs({ j.id, fence, j.p }) do tickets[#tickets + 1] = v end
end

-- atOnce reports whether a job that comes is handed out at once: nobody waits, and its pool
-- has room. Then it need not stand in the backlog, nor its tenant have a turn.
local function atOnce(j, depth)
  return redis.call('ZCARD', keys.ring(j.p)) == 0 and redis.call('ZCARD', keys.backlog(j.p, j.t)) == 0 and vacant(j.p, depth) > 0
end

-- claim hands out jobs until depth of them are between the backlog and the
-- provider, few at a time, so that nobody waits for it long. It appends id, fence and
-- pool of each to tickets, and returns true when there may be more to hand out.
local function claim(pool, depth, tickets)
  local next = redis.call('ZRANGE', keys.ring(pool), 0, 0, 'WITHSCORES')
  if not next[1] then return end
  local room, steps = vacant(pool, depth), 96
  while steps > 0 do
    if room <= 0 then return end
    steps = steps - 1
    local id = pick(pool, next)
    next = nil
    if not id then return end
    local j, bad = sound(id, fits)
    if j and j.dl > 0 and j.dl <= now then j, bad = sound(id, fitsEnd) end
    if bad then
      broken(id, keys.running(pool))
    elseif j and phase[j.s] == 'queued' then
      if j.dl > 0 and j.dl <= now then
        expire(j)
        steps = steps - 7
      else
        handOut(j, redis.call('HINCRBY', j.key, 'f', 1), tickets)
        room = room - 1
      end
    elseif not j then
      missed(id, 'queued', pool)
    end
  end
  return true
end
