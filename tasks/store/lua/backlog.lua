-- The order of work, and nothing else: what waits, whose turn it is, what is
-- handed out.

local function noteOf(field, value, least)
  if value == least then
    redis.call('HDEL', keys.weights(), field)
  else
    redis.call('HSET', keys.weights(), field, value)
  end
end

-- placesIn reads what a process says of a tenant: its weight, and in the form of keys.weights how
-- many of its jobs may be out at once and how many of each of its users.
local function placesIn(said)
  local weight, most, each = string.match(said, '^(%d+) (%d+) ?(%d*)$')
  return weight, each == '' and most or most .. ' u' .. each
end

-- weigh notes a tenant's weight and, each behind a space, how many of its jobs may be out at
-- once, and of each user's, as this process has them; what an operator has set just now stays.
-- Most have 1 and 0, which takes no room.
local function weigh(tenant, noted)
  local weight, most = placesIn(noted)
  weightOf(tenant)
  local set = string.match(mosts[tenant], 'r(.+)$')
  if set and now < tonumber(set) then return end
  if weights[tenant] ~= weight then noteOf(tenant, weight, '1') end
  if mosts[tenant] ~= most then noteOf('\t' .. tenant, most, '0') end
  weights[tenant], mosts[tenant] = weight, most
end

-- A tenant's backlog has the jobs of a lane side by side: in the order of a job (k), which is
-- otherwise a time in ms, its lane moves it this far. A release before this one so has the
-- lanes of each tenant one behind the other. What stands aside there, see stepAside, is moved by
-- out of all lanes.
local apart = 4398046511104
local outside = 4 * apart

-- orderIn is a job's order: the lane is what shift moves it by, and within it the nearer
-- deadline goes first, but a job that has waited for an hour before all of whose deadline
-- lies ahead.
local function orderIn(shift, since, deadline)
  if deadline > 0 then since = math.min(since, deadline - 3600000) end
  return since + shift
end

-- orderOf is how a pool's lanes stand: for each its turn and its part of the pool, in which
-- orders its jobs lie, and the turn among its tenants. All turns are seconds of the pool's allowance, by
-- share or weight, and the present turn, o.turn or lane.time, is that of whoever was picked
-- last: it never goes back.
local orders = {}
local function orderOf(pool)
  if orders[pool] then return orders[pool] end
  local h = redis.pcall('HMGET', keys.order(pool), 'turn', 'high', 'normal', 'low', 'times', 'shares')
  local t1, t2, t3 = string.match(h[5] or '', '^(%S+) (%S+) (%S+)$')
  local s1, s2, s3 = string.match(h[6] or '70 25 5', '^(%d+) (%d+) (%d+)$')
  local all = s1 + s2 + s3
  local high = { name = 'high', turns = keys.turns(pool, 'high'), turn = tonumber(h[2] or 0), time = tonumber(t1), part = s1 / all, shift = -apart, from = '-inf', till = '(0' }
  local normal = { name = 'normal', turns = keys.turns(pool, 'normal'), turn = tonumber(h[3] or 0), time = tonumber(t2), part = s2 / all, shift = 0, from = 0, till = '(' .. apart }
  local low = { name = 'low', turns = keys.turns(pool, 'low'), turn = tonumber(h[4] or 0), time = tonumber(t3), part = s3 / all, shift = apart, from = apart, till = '(' .. 2 * apart }
  orders[pool] = { turn = tonumber(h[1] or 0), high, normal, low, high = high, normal = normal, low = low }
  return orders[pool]
end

-- noteShares notes the shares of a pool's lanes as the configuration has them now; nil: the usual ones.
local function noteShares(pool, shares)
  local noted = redis.pcall('HGET', keys.order(pool), 'shares') or nil
  if noted == shares or type(noted) == 'table' then return end
  orders[pool] = nil
  if shares then
    redis.call('HSET', keys.order(pool), 'shares', shares)
  else
    redis.call('HDEL', keys.order(pool), 'shares')
  end
end

-- timeOf is the present turn among the tenants of a lane.
local function timeOf(lane)
  lane.time = lane.time or tonumber(redis.call('ZRANGE', lane.turns, 0, 0, 'WITHSCORES')[2] or 0)
  return lane.time
end

-- noteOrder notes how lanes stand now. An order that is not noted holds nothing up.
local function noteOrder(pool)
  local o = orderOf(pool)
  local turn = string.format('%.17g', o.turn)
  local function of(lane) return lane.turn == o.turn and turn or string.format('%.17g', lane.turn) end
  redis.pcall('HSET', keys.order(pool), 'turn', turn, 'high', of(o.high), 'normal', of(o.normal), 'low', of(o.low),
    'times', string.format('%.17g %.17g %.17g', timeOf(o.high), timeOf(o.normal), timeOf(o.low)))
end

-- laneOf is the lane of a job, as its order says.
local function laneOf(j)
  local k = tonumber(j.k)
  return orderOf(j.p)[k < 0 and 'high' or k < apart and 'normal' or 'low']
end

-- owes notes what a tenant was served beyond the present turn of a lane. The debt ends with the time in
-- which the pool could have given others as much, ten seconds at least: the turn stands while
-- nobody waits.
local function owes(pool, lane, tenant, turn)
  local key = keys.owing(pool, lane.name)
  redis.pcall('ZADD', key, turn, tenant)
  local most = redis.pcall('ZRANGE', key, -1, -1, 'WITHSCORES')[2] or turn
  redis.pcall('PEXPIRE', key, math.max(10000, math.ceil((most - timeOf(lane)) * 1000)))
end

-- enroll has a release before this one find the backlog of a tenant: it knows tenants alone,
-- and begins one at a turn of its own. What that turn has more, less than a job, tells this
-- release since when the tenant has a backlog: 10^13 ms are one.
local function enroll(pool, tenant)
  local ring, since = keys.ring(pool), now / 1e13
  if redis.call('ZADD', ring, 'NX', string.format('%.17g', since), tenant) == 0 then return end
  local turn = without('GET', keys.turn(pool))
  if turn then redis.call('ZADD', ring, string.format('%.17g', turn + since), tenant) end
end

-- ring gives a job's tenant a turn in the job's lane, if it has none.
local rung = {} -- those that have one
local function ring(j)
  local lane = laneOf(j)
  local it = lane.turns .. '\n' .. j.t
  if rung[it] then return end
  rung[it] = true
  enroll(j.p, j.t)
  if redis.call('ZSCORE', lane.turns, j.t) then return end
  -- A tenant that comes back starts at the present time: idling saves nothing up, and
  -- what it was served beyond that it still owes.
  redis.call('ZADD', lane.turns, math.max(timeOf(lane), without('ZSCORE', keys.owing(j.p, lane.name), j.t) or 0), j.t)
  lane.head = nil
end

-- strike ends the turns of a tenant without a backlog, in a lane and for a release before this one.
local function strike(pool, lane, tenant)
  redis.call('ZREM', lane.turns, tenant)
  lane.head, rung = nil, {}
  if redis.call('EXISTS', keys.backlog(pool, tenant)) == 0 then redis.call('ZREM', keys.ring(pool), tenant) end
end

-- manyOf is how many jobs a tenant has in the backlog of a lane.
local function manyOf(pool, lane, tenant)
  local n = redis.pcall('ZCOUNT', keys.backlog(pool, tenant), lane.from, lane.till) -- one of another type has none
  return type(n) == 'number' and n or 0
end

-- meet finds work that a release before this one has put into the backlog: it looks at some
-- tenants, at others each second.
local function meet(pool)
  local ring, some = keys.ring(pool), 200
  local turns = math.max(1, math.ceil(redis.call('ZCARD', ring) / some))
  local from = math.floor(now / 1000) % turns * some
  local names = redis.call('ZRANGE', ring, from, from + some - 1)
  if not names[1] then return end
  for _, lane in ipairs(orderOf(pool)) do
    local has = redis.call('ZMSCORE', lane.turns, unpack(names))
    for i, tenant in ipairs(names) do
      if not has[i] and manyOf(pool, lane, tenant) > 0 then
        redis.call('ZADD', lane.turns, timeOf(lane), tenant)
        lane.head = nil
      end
    end
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

-- within adds so many µs to what was served in each span of so many ms, the newest first. Spans
-- that have been over for six of them are left out.
local function within(list, span, cost)
  local at = math.floor(now / span)
  local newest, sum, rest = string.match(list, '^(%d+):(%d+)(.*)$')
  if tonumber(newest) == at then return string.format('%.0f:%.0f', at, sum + cost) .. rest end
  local all = { string.format('%.0f:%.0f', at, cost) }
  for n, had in string.gmatch(list, '(%d+):(%d+)') do
    if at - n <= 6 then all[#all + 1] = n .. ':' .. had end
  end
  return table.concat(all, ',')
end

-- served notes what a call has cost (µs) for pooled to write: what each tenant was served in the
-- last minute, by spans of ten seconds, and in the last hour, by spans of ten minutes.
local function served(j, cost)
  local load = loadOf(j.p)
  if load.tenant ~= j.t then return end
  local minute, hour = string.match(load.served, '^(%S*) ?(%S*)$')
  load.served, load.more = within(minute or '', 10000, cost) .. ' ' .. within(hour or '', 600000, cost), true
end

-- reckon puts what a call has cost (µs) in the place of what its tenant was charged for
-- it: 0 for one that was not made, nil where nobody knows.
local function reckon(j, cost)
  if cost and cost > 0 then served(j, cost) end
  if cost and j.s == 'running' then begins(j.p, cost - (dueOf(j) or 1000000)) end
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
  local more = (cost - charged) / 1000000
  if more == 0 then return end
  local lane, by = laneOf(j), more / weightOf(j.t)
  lane.turn = lane.turn + more / lane.part
  if lane.turn < orderOf(j.p).turn and redis.call('EXISTS', lane.turns) == 0 then lane.turn = orderOf(j.p).turn end
  redis.pcall('HSET', keys.order(j.p), lane.name, string.format('%.17g', lane.turn))
  if redis.call('ZADD', lane.turns, 'XX', 'INCR', by, j.t) then
    lane.head = nil
  elseif not redis.pcall('ZADD', keys.owing(j.p, lane.name), 'XX', 'INCR', by, j.t) and by > 0 then
    owes(j.p, lane, j.t, timeOf(lane) + by)
  end
end

-- noneAside takes a job off those that stand aside for its user.
local function noneAside(j)
  if j.us and mostOf(ownerOf(j)) > 0 then redis.pcall('ZREM', keys.aside(j.p, ownerOf(j)), j.id) end
end

-- backlog puts a job where the next pick finds it.
local function backlog(j)
  redis.call('ZADD', keys.backlog(j.p, j.t), j.k, j.id)
  noneAside(j)
  if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, j.id) end
  ring(j)
end

-- replaced moves a job to its order in the backlog, if it stands there.
local function replaced(j)
  if redis.call('ZADD', keys.backlog(j.p, j.t), 'XX', 'CH', j.k, j.id) == 0 then return end
  noneAside(j)
  ring(j)
end

-- again is reckon for a job whose call is over and that is to have another.
local function again(j, cost)
  reckon(j, cost)
  if j.cs then puts(j, 'cs', j.cs) end
end

-- A tenant may have a limit of how many of its jobs are out at once: handed out, held or
-- running, and each of its users another. Each of them has a place, until it is in nobody's hands (vacate in finish.lua).
-- One whose jobs wait for a review has none. Nothing here holds up a move of a job: what is of
-- another type limits nobody.

-- placesOf is how many places a tenant, or a user of one, has left, or nil where nothing limits it.
local function placesOf(owner)
  local most = mostOf(owner)
  if most == 0 then return nil end
  local has = redis.pcall('ZCARD', keys.outs(owner))
  return type(has) == 'number' and most - has or nil
end

-- crammed reports whether a tenant, or a user of one, has no place left, and packed whether a job
-- finds none for its user.
local function crammed(owner)
  return not string.find(owner, '/', 1, true) and reviewed(owner) or (placesOf(owner) or 1) <= 0
end
local function packed(j) return j.us and crammed(ownerOf(j)) end

-- limited reports whether a job needs a place while it is out.
local function limited(j) return mostOf(j.t) > 0 or j.us and mostOf(ownerOf(j)) > 0 end

-- occupy gives a job that is handed out its places, and returns what is to be noted of it.
local function occupy(j)
  if not limited(j) then return end
  if mostOf(j.t) > 0 then redis.pcall('ZADD', keys.outs(j.t), now, j.id) end
  if j.us and mostOf(ownerOf(j)) > 0 then redis.pcall('ZADD', keys.outs(ownerOf(j)), now, j.id) end
  redis.pcall('ZREM', keys.due(), j.id) -- see passOver
  return 'pl', 1
end

-- notedAt notes for the next free place that a tenant at its limit, or a user, is passed over in a pool.
local function notedAt(owner, pool, depth)
  return type(redis.pcall('ZADD', keys.passed(owner), 'NX', now, depth .. ' ' .. pool)) == 'number'
    and type(redis.pcall('ZADD', keys.atLimit(), 'NX', now + 1000, owner)) == 'number'
end

-- passOver reports whether a tenant is passed over: at its limit it has no turn in the
-- pool until a place is free again. Should nobody who knows of limits be left, the release
-- before this one finds it by the first of its jobs, which a sweep puts into line again.
local function passOver(pool, tenant, depth) -- seldom
  local first = redis.pcall('ZRANGE', keys.backlog(pool, tenant), 0, 0)[1]
  if not first then return false end
  if not notedAt(tenant, pool, depth) then return false end
  redis.pcall('ZADD', keys.due(), 'NX', now + 30000, first)
  return true
end

-- settled ends the review of a tenant at a moment, if nothing has before, and keeps from when until when it was, for timelines.
local function settled(tenant, till) -- seldom
  weightOf(tenant)
  local from = string.match(reviews[tenant] or '', '^(%d+) ')
  if not from then return end
  till = math.min(till, tonumber(string.match(reviews[tenant], '(%d+)$')))
  redis.pcall('HDEL', keys.weights(), '\t\r' .. tenant)
  redis.pcall('RPUSH', keys.reviews(tenant), string.format('%s %.0f', from, till))
  redis.pcall('LTRIM', keys.reviews(tenant), -16, -1)
  redis.pcall('PEXPIRE', keys.reviews(tenant), 2592000000)
  reviews[tenant] = false
end

-- stepAside has a job that was picked stand aside while its user is at its limit, so that the
-- tenant's others pass it; false: its user has a place. It stands in the same backlog, so
-- that whatever takes a job out of that finds it. A release before this one takes it for one
-- of the lane low, whose turn it is at the end.
local function stepAside(j, depth) -- seldom
  if not packed(j) or type(redis.pcall('ZADD', keys.aside(j.p, ownerOf(j)), j.k, j.id)) ~= 'number' then return false end
  if not notedAt(ownerOf(j), j.p, depth) then return false end
  redis.call('ZADD', keys.backlog(j.p, j.t), j.k + outside, j.id)
  return true
end

-- comeBack puts the first of the jobs that stand aside for a user back into line, one for each
-- place that it has left, and reports whether one came. With more of them the pool is noted again, behind the user's others.
-- One script brings back so many, comings, and a sweep then goes on at once.
local comings = 200
local function comeBack(pool, depth, owner) -- seldom
  local tenant = string.match(owner, '^[^/]*')
  local set, q, came = keys.aside(pool, owner), keys.backlog(pool, tenant), false
  local places = placesOf(owner) or comings
  while places > 0 and comings > 0 do
    local id = redis.pcall('ZPOPMIN', set)[1]
    if not id then break end
    comings = comings - 1
    local at = tonumber(without('ZSCORE', q, id) or 0)
    if at >= 2 * apart then -- else it has left by another door
      redis.call('ZADD', q, at - outside, id)
      ring({ p = pool, t = tenant, k = at - outside })
      places, came = places - 1, true
    end
  end
  if (without('ZCARD', set) or 0) ~= 0 then notedAt(owner, pool, depth) end
  if comings <= 0 then redis.pcall('ZADD', keys.atLimit(), now, owner) end
  return came
end

-- usersAtLimit are the users of a tenant that are noted as at their limit, of the five thousand whose turn to
-- be looked at is last.
local function usersAtLimit(tenant) -- seldom
  local users = {}
  for _, owner in ipairs(redis.call('ZREVRANGE', keys.atLimit(), 0, 4999)) do
    if string.sub(owner, 1, #tenant + 1) == tenant .. '/' then users[#users + 1] = owner end
  end
  return users
end

-- letBack gives a tenant that was passed over its turns back, and reports whether it has a job in line.
local function letBack(pool, tenant)
  local rang = false
  for _, lane in ipairs(orderOf(pool)) do
    local first = redis.pcall('ZRANGEBYSCORE', keys.backlog(pool, tenant), lane.from, lane.till, 'WITHSCORES', 'LIMIT', 0, 1)
    if first[2] then
      ring({ p = pool, t = tenant, k = first[2] })
      rang = true
    end
  end
  return rang
end

-- turnOf is the lane whose turn it is, with the tenant that goes first in it, or nil.
local function turnOf(pool)
  local o, first = orderOf(pool), nil
  for _, lane in ipairs(o) do
    lane.head = lane.head or redis.call('ZRANGE', lane.turns, 0, 0, 'WITHSCORES')
    lane.time = lane.time or tonumber(lane.head[2] or 0)
    if lane.head[1] and (not first or lane.turn < first.turn) then first = lane end
  end
  o.turn = math.max(o.turn, first and first.turn or 0)
  for _, lane in ipairs(o) do
    if not lane.head[1] then lane.turn = math.max(lane.turn, o.turn) end -- idling saves nothing up
  end
  return first
end

-- pick takes the next job out of a pool's backlogs and returns its id, lane, tenant, the
-- tenant's turn and whether the tenant has another there, or nil.
-- This and spend are the whole of the fairness, start-time fair queueing of two levels: each lane
-- has a turn, and in it each tenant; the lowest goes next and moves on by cost/share and cost/weight.
local function pick(pool, depth)
  while true do
    local lane = turnOf(pool)
    if not lane then return nil end
    local tenant, turn = lane.head[1], tonumber(lane.head[2])
    local q = keys.backlog(pool, tenant)
    local over = crammed(tenant) and passOver(pool, tenant, depth)
    local ids = over and {} or redis.pcall('ZRANGEBYSCORE', q, lane.from, lane.till, 'LIMIT', 0, 2) -- one of another type has no turn
    if ids[1] then
      redis.call('ZREM', q, ids[1])
      lane.time = math.max(timeOf(lane), turn)
      return ids[1], lane, tenant, turn, ids[2] and true
    end
    if over then
      redis.call('ZREM', lane.turns, tenant)
      redis.call('ZREM', keys.ring(pool), tenant)
      lane.head, rung = nil, {}
      if turn > timeOf(lane) then owes(pool, lane, tenant, turn) end
    else
      strike(pool, lane, tenant)
    end
  end
end

-- spend moves the turns of a lane and a tenant on, of which a job was picked that costs so many
-- µs. more is true where the tenant has another there.
local function spend(pool, lane, tenant, turn, cost, more)
  lane.head = nil
  lane.turn, turn = lane.turn + cost / 1000000 / lane.part, turn + cost / 1000000 / weightOf(tenant)
  if more or manyOf(pool, lane, tenant) > 0 then
    if cost > 0 then redis.call('ZADD', lane.turns, turn, tenant) end
    return
  end
  strike(pool, lane, tenant)
  redis.pcall('ZREMRANGEBYSCORE', keys.owing(pool, lane.name), '-inf', lane.time)
  if turn > lane.time then owes(pool, lane, tenant, turn) end
end

-- rankOf is a job's place among its tenant's own of its lane in the backlog, 1 being next; 0: it
-- is not there. Between two calls nothing may move in a backlog.
local before = {} -- jobs of lanes that go before
local function rankOf(j)
  local q = keys.backlog(j.p, j.t)
  local rank = redis.call('ZRANK', q, j.id)
  if not rank then return 0 end
  local lane = laneOf(j)
  local it = q .. '\n' .. lane.name
  before[it] = before[it] or lane.name == 'high' and 0 or redis.call('ZCOUNT', q, '-inf', '(' .. lane.from)
  return rank + 1 - before[it]
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

-- restage sums up anew what is between the backlog and the provider, where so much is counted
-- that few are let there: a release that does not count leaves too much of it.
local function restage(pool)
  local load = loadOf(pool)
  if load.stage < 2000000 or redis.call('ZCARD', keys.handed(pool)) + redis.call('ZCARD', keys.held(pool)) > 2 then return end
  load.stage, load.staged = 0, true
  for _, where in ipairs({ keys.handed(pool), keys.held(pool) }) do
    for _, id in ipairs(redis.call('ZRANGE', where, 0, -1)) do
      local cs = redis.pcall('HGET', keys.job(id), 'cs')
      onStage({ p = pool, cs = type(cs) == 'string' and cs or nil }, 1)
    end
  end
end

-- handOut hands a job out under a fence: it appends id, fence and pool to tickets.
local function handOut(j, fence, tickets)
  redis.call('ZADD', keys.handed(j.p), now + 10000, j.id)
  onStage(j, 1)
  for _, v in ipairs({ j.id, fence, j.p }) do tickets[#tickets + 1] = v end
end

-- busy is how many of a pool's lanes have jobs in the backlog.
local function busy(pool)
  return redis.call('EXISTS', keys.turns(pool, 'high'), keys.turns(pool, 'normal'), keys.turns(pool, 'low'))
end

-- heads finds who goes first in each lane of a pool, of which so many are busy: most pools
-- use one alone, and the others need not be looked at.
local function heads(pool, many)
  local o = orderOf(pool)
  for _, lane in ipairs({ o.normal, o.high, o.low }) do
    lane.head = lane.head or many == 0 and {} or redis.call('ZRANGE', lane.turns, 0, 0, 'WITHSCORES')
    if lane.head[1] then many = many - 1 end
  end
end

-- atOnce reports whether a job that comes is handed out at once: nobody waits, its pool
-- has room, and its tenant a place. Then it need not stand in the backlog, nor its tenant have a turn.
local function atOnce(j, depth)
  return busy(j.p) == 0 and redis.call('ZCARD', keys.backlog(j.p, j.t)) == 0 and vacant(j.p, depth, between(j.p, depth)) and not crammed(j.t) and not packed(j)
end

-- claim hands out jobs until depth of them are between the backlog and the
-- provider, few at a time, so that nobody waits for it long. It appends id, fence and
-- pool of each to tickets, and returns true when there may be more to hand out.
local function claim(pool, depth, tickets)
  local lanes = busy(pool)
  if lanes == 0 then
    noteStage(pool)
    return
  end
  heads(pool, lanes)
  local many, steps = between(pool, depth), 96
  local picked, asides = false, {}
  while steps > 0 and vacant(pool, depth, many) do
    steps = steps - 1
    local id, lane, tenant, turn, more = pick(pool, depth)
    if not id then break end
    picked = true
    local j, bad = sound(id, fitsOut)
    if j and j.dl > 0 and j.dl <= now then j, bad = sound(id, fitsEnd) end
    local charged = 0
    if bad then
      broken(id, keys.running(pool))
    elseif j and phase[j.s] == 'queued' then
      if j.dl > 0 and j.dl <= now then
        expire(j)
        steps = steps - 7
      elseif stepAside(j, depth) then
        -- Each eighth takes its tenant's turn as a job does: the next tenants are served by the same claim.
        asides[tenant] = (asides[tenant] or 0) + 1
        if asides[tenant] % 8 == 0 then charged = math.ceil(costOf(j) * share(pool, tenant)) end
      else
        charged = math.ceil(costOf(j) * share(pool, tenant))
        j.f = j.f + 1
        if j.cs or loadOf(pool).cost then j.cs = string.format('%.0f %.0f', costOf(j), charged) end
        redis.call('HSET', j.key, 'f', j.f, 'cs', j.cs or string.format('%.0f %.0f', costOf(j), charged), occupy(j))
        handOut(j, j.f, tickets)
        many = many + 1
      end
    elseif not j then
      missed(id, 'queued', pool)
    end
    spend(pool, lane, tenant, turn, charged, more)
  end
  if picked then noteOrder(pool) end
  noteStage(pool)
  return steps <= 0 and vacant(pool, depth, many)
end
