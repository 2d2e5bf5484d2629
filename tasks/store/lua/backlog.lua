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

-- Virtual time of a pool is in seconds of its allowance for a tenant of weight 1: the
-- turn of whoever was picked last. It never goes back.
local times = {}
local function timeOf(pool)
  times[pool] = times[pool] or tonumber(without('GET', keys.turn(pool)) or redis.call('ZRANGE', keys.ring(pool), 0, 0, 'WITHSCORES')[2] or 0)
  return times[pool]
end

-- owes notes what a tenant was served beyond the present turn. The debt ends with the time in
-- which the pool could have given others as much, ten seconds at least: the turn stands while
-- nobody waits.
local function owes(pool, tenant, turn)
  local key = keys.owing(pool)
  redis.pcall('ZADD', key, turn, tenant)
  local most = redis.pcall('ZRANGE', key, -1, -1, 'WITHSCORES')[2] or turn
  redis.pcall('PEXPIRE', key, math.max(10000, math.ceil((most - timeOf(pool)) * 1000)))
end

-- ring gives a job's tenant a turn in its pool, if it has none.
local function ring(j)
  local turns = keys.ring(j.p)
  if not redis.call('ZSCORE', turns, j.t) then
    -- A tenant that comes back starts at the present time: idling saves nothing up, and
    -- what it was served beyond that it still owes.
    redis.call('ZADD', turns, math.max(timeOf(j.p), without('ZSCORE', keys.owing(j.p), j.t) or 0), j.t)
  end
end

-- costOf is what a job is expected to cost, in µs of its pool's allowance. One of which
-- nobody has said it costs what others do.
local function costOf(j) return tonumber(string.match(j.cs or '', '^%d+')) or loadOf(j.p).cost or 1000000 end

-- paidOf is what a tenant's calls have cost of late and what was expected of them, in µs,
-- or nothing.
local paid = {}
local function paidOf(pool, tenant)
  local key = keys.paid(pool)
  local of = paid[key .. tenant]
  if not of then
    local cost, guess = string.match(without('HGET', key, tenant) or '', '^(%d+) (%d+)$')
    of = { tonumber(cost), tonumber(guess) }
    paid[key .. tenant] = of
  end
  return of[1], of[2]
end

-- share is how much of what was expected calls of a tenant turn out to cost: an estimate
-- knows only the most that an answer may have.
local function share(pool, tenant)
  local cost, guess = paidOf(pool, tenant)
  if not cost then cost, guess = loadOf(pool).cost, loadOf(pool).guess end
  return cost and guess and guess > 0 and cost / guess or 1
end

-- expects notes what the first job of a pool is expected to cost, for as long as no call has ended.
local function expects(j)
  local load = loadOf(j.p)
  if j.cs and not load.cost then load.cost, load.guess = tonumber(j.cs), tonumber(j.cs) end
end

-- toward moves a mean by what was seen.
local function toward(mean, seen) return mean and math.ceil(mean + (seen - mean) / 16) or seen end

-- reckon puts what a call has cost (µs) in the place of what its tenant was charged for
-- it: 0 for one that was not made, nil where nobody knows.
local function reckon(j, cost)
  local guess, charged = string.match(j.cs or '', '^(%d+) ?(%d*)$')
  if not guess then return end
  if cost and cost > 0 then
    local load = loadOf(j.p)
    load.cost, load.guess = toward(load.cost, cost), toward(load.guess, tonumber(guess))
  end
  if charged == '' then return end
  j.cs = guess
  if not cost then return end
  if cost > 0 then
    local c, g = paidOf(j.p, j.t)
    redis.pcall('HSET', keys.paid(j.p), j.t, string.format('%.0f %.0f', toward(c, cost), toward(g, tonumber(guess))))
  end
  local by = (cost - charged) / 1000000 / weightOf(j.t)
  if by == 0 or redis.call('ZADD', keys.ring(j.p), 'XX', 'INCR', by, j.t) then return end
  if not redis.pcall('ZADD', keys.owing(j.p), 'XX', 'INCR', by, j.t) and by > 0 then
    owes(j.p, j.t, timeOf(j.p) + by)
  end
end

-- backlog puts a job where the next pick finds it.
local function backlog(j)
  redis.call('ZADD', keys.backlog(j.p, j.t), j.k, j.id)
  if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, j.id) end
  ring(j)
end

-- again is reckon for a job whose call is over and that is to have another.
local function again(j, cost)
  reckon(j, cost)
  if j.cs then puts(j, 'cs', j.cs) end
end

-- pick takes the next job out of a pool's backlogs and returns its id, tenant and the
-- tenant's turn, or nil. first is the first of the ring, if that is known.
-- This and spend are the whole of the fairness between tenants, start-time fair queueing:
-- each has a turn, the lowest goes next and moves on by cost/weight.
local function pick(pool, first)
  while true do
    first = first or redis.call('ZRANGE', keys.ring(pool), 0, 0, 'WITHSCORES')
    local tenant, turn = first[1], tonumber(first[2])
    if not tenant then return nil end
    local popped = redis.pcall('ZPOPMIN', keys.backlog(pool, tenant)) -- one of another type has no turn
    if popped[1] then
      times[pool] = math.max(timeOf(pool), turn)
      return popped[1], tenant, turn
    end
    redis.call('ZREM', keys.ring(pool), tenant)
    first = nil
  end
end

-- spend moves the turn of a tenant on, of whom a job was picked that costs so many µs.
local function spend(pool, tenant, turn, cost)
  turn = turn + cost / 1000000 / weightOf(tenant)
  if redis.call('EXISTS', keys.backlog(pool, tenant)) == 1 then
    if cost > 0 then redis.call('ZADD', keys.ring(pool), turn, tenant) end
    return
  end
  redis.call('ZREM', keys.ring(pool), tenant)
  redis.pcall('ZREMRANGEBYSCORE', keys.owing(pool), '-inf', times[pool])
  if turn > times[pool] then owes(pool, tenant, turn) end
end

-- vacant reports whether one more of a pool's jobs may be between the backlog and the provider,
-- where so many are: up to depth, and while those there are less than two seconds of its
-- allowance, or two.
local function vacant(pool, depth, many) return many < depth and (many < 2 or loadOf(pool).stage < 2000000) end

-- between is how many of a pool's jobs are between the backlog and the provider, or depth where
-- none may follow, as while it is paused. With none there, nothing is left of what was counted
-- wrong of them, as by a release that does not count.
local function between(pool, depth)
  local many = redis.call('ZCARD', keys.handed(pool)) + redis.call('ZCARD', keys.held(pool))
  local load = loadOf(pool)
  if many == 0 and load.stage ~= 0 then load.stage, load.staged = 0, true end
  if not vacant(pool, depth, many) or without('HEXISTS', keys.paused(), pool) == 1 then return depth end
  return many
end

-- handOut hands a job out under a fence: it appends id, fence and pool to tickets.
local function handOut(j, fence, tickets)
  redis.call('ZADD', keys.handed(j.p), now + 10000, j.id)
  onStage(j, 1)
  for _, v in ipairs({ j.id, fence, j.p }) do tickets[#tickets + 1] = v end
end

-- atOnce reports whether a job that comes is handed out at once: nobody waits, and its pool
-- has room. Then it need not stand in the backlog, nor its tenant have a turn.
local function atOnce(j, depth)
  return redis.call('ZCARD', keys.ring(j.p)) == 0 and redis.call('ZCARD', keys.backlog(j.p, j.t)) == 0 and vacant(j.p, depth, between(j.p, depth))
end

-- claim hands out jobs until depth of them are between the backlog and the
-- provider, few at a time, so that nobody waits for it long. It appends id, fence and
-- pool of each to tickets, and returns true when there may be more to hand out.
local function claim(pool, depth, tickets)
  local next = redis.call('ZRANGE', keys.ring(pool), 0, 0, 'WITHSCORES')
  if not next[1] then
    noteStage(pool)
    return
  end
  local many, steps, id = between(pool, depth), 96, nil
  local picked = false
  while steps > 0 and vacant(pool, depth, many) do
    steps = steps - 1
    local tenant, turn
    id, tenant, turn = pick(pool, next)
    next = nil
    if not id then break end
    picked = true
    local j, bad = sound(id, fits)
    if j and j.dl > 0 and j.dl <= now then j, bad = sound(id, fitsEnd) end
    local charged = 0
    if bad then
      broken(id, keys.running(pool))
    elseif j and phase[j.s] == 'queued' then
      if j.dl > 0 and j.dl <= now then
        expire(j)
        steps = steps - 7
      else
        charged = math.ceil(costOf(j) * share(pool, tenant))
        j.f = j.f + 1
        if j.cs or loadOf(pool).cost then j.cs = string.format('%.0f %.0f', costOf(j), charged) end
        redis.call('HSET', j.key, 'f', j.f, 'cs', j.cs or string.format('%.0f %.0f', costOf(j), charged))
        handOut(j, j.f, tickets)
        many = many + 1
      end
    elseif not j then
      missed(id, 'queued', pool)
    end
    spend(pool, tenant, turn, charged)
  end
  if picked then
    redis.pcall('SET', keys.turn(pool), string.format('%.17g', times[pool])) -- a time that is not noted holds nothing up
  end
  noteStage(pool)
  return steps <= 0 and vacant(pool, depth, many)
end
