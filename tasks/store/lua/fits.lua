-- What a script will write is looked at before its first write: a key of another type
-- than it should be is refused while nothing has moved. What a move only meets on its
-- way, another tenant's backlog or another's job, is passed by instead, and looked at
-- again a minute later: it holds up none of the others.

local looked = {} -- by this run of the script

local function each(command, ...)
  for i = 1, select('#', ...) do redis.call(command, (select(i, ...))) end
end

-- sorted looks at sets by score, all in one call that reads none of them: from the one
-- that is never there nothing can be taken away. A plain set would pass; nobody has any.
local function sorted(...) redis.call('ZDIFF', select('#', ...) + 1, keys.spare(), ...) end

-- fitsPool looks at what every move of a pool's jobs writes, and claim.
local function fitsPool(pool)
  if looked[pool] then return end
  sorted(keys.handed(pool), keys.held(pool), keys.running(pool), keys.fallbacks(pool), keys.ring(pool))
  each('HLEN', keys.load(pool), keys.paused())
  redis.call('GET', keys.turn(pool))
  looked[pool] = true
end

-- fitsTenant looks at what a tenant's work is counted in.
local function fitsTenant(tenant)
  if looked[tenant .. '\n'] then return end
  each('HLEN', keys.waiting(), keys.bytes(), keys.day(tenant), keys.weights())
  looked[tenant .. '\n'] = true
end

-- fits looks at what a job's moves between waiting and running write.
local function fits(j)
  fitsPool(j.p)
  fitsTenant(j.t)
  redis.call('ZCARD', keys.backlog(j.p, j.t))
  if j.c and not looked[j.c] then
    redis.call('HLEN', keys.batch(j.c))
    looked[j.c] = true
  end
  if j.sh or j.fo then redis.call('ZCARD', keys.followers(j.p, j.sh or j.fo)) end
end

-- fitsEvents looks at what a tenant's events write.
local function fitsEvents(tenant)
  if looked[tenant .. '\r'] then return end
  sorted(keys.deliveries(tenant), keys.deliveriesExpiring(), keys.lanes(tenant), keys.places(tenant),
    keys.senders(), keys.resting(), keys.failing(), keys.retries(), keys.sending())
  each('HLEN', keys.hooks(tenant), keys.poolHooks(), keys.flying())
  each('GET', keys.serial(), keys.sendersTurn())
  looked[tenant .. '\r'] = true
end

-- fitsEnd looks at what a job's end writes, beside fits.
local function fitsEnd(j)
  fits(j)
  fitsEvents(j.t)
  sorted(keys.jobs(j.t), keys.expiring(), keys.due(), keys.deadlines())
  each('LLEN', keys.tellings(j.id), keys.late())
  if j.c then redis.call('LLEN', keys.lines(j.c)) end
end

-- fitsSweep looks at what a sweep reads and writes whatever the job.
local function fitsSweep()
  sorted(keys.deadlines(), keys.due(), keys.expiring(), keys.unfolding(), keys.staging(),
    keys.deliveriesExpiring(), keys.senders(), keys.resting(), keys.failing(), keys.retries(), keys.sending())
  each('HLEN', keys.waiting(), keys.weights(), keys.paused(), keys.flying(), keys.poolHooks())
  each('GET', keys.swept(), keys.grace(), keys.serial(), keys.sendersTurn())
  redis.call('LLEN', keys.late())
end

-- fitsAudit looks at what an audit writes of a tenant's jobs and batches, beside
-- each job's own.
local function fitsAudit(tenant)
  fitsTenant(tenant)
  fitsEvents(tenant)
  sorted(keys.jobs(tenant), keys.batches(tenant), keys.expiring(), keys.due(), keys.deadlines())
  each('HLEN', keys.missing())
end

-- fitsLane looks at what handing out a lane's deliveries reads and writes.
local function fitsLane(lane)
  redis.call('ZCARD', keys.lane(lane))
  redis.call('HLEN', keys.endpoint(lane))
  redis.call('GET', keys.lanePace(lane))
end
