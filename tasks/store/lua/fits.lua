-- What a script will write is looked at before its first write: a key of another type
-- than it should be is refused while nothing has moved. What a move only meets on its
-- way, another tenant's backlog or another's job, is passed by instead, and looked at
-- again a minute later: it holds up none of the others.
--
-- A look costs a command, and every move of every job makes it. So what a move reads
-- anyway before it writes is its look, sets are looked at all in one command, and what
-- a script can do without (weights, turns, what is paused) it reads by pcall instead.

local looked = {} -- by this run of the script

local function each(command, ...)
  for i = 1, select('#', ...) do redis.call(command, (select(i, ...))) end
end

-- sorted looks at sets by score, all in one call that reads none of them: from the one
-- that is never there nothing can be taken away. A plain set would pass; nobody has any.
local function sorted(...) redis.call('ZDIFF', select('#', ...) + 1, keys.spare(), ...) end

-- without reads what a script can do without: where another type stands, there is nothing.
local function without(...)
  local read = redis.pcall(...)
  return type(read) ~= 'table' and read or nil
end

-- lasting looks at whether Redis permits what gives a key an end, which is of another
-- kind than what reads and writes it. What begins with spare has looked.
local function lasting()
  if looked['\t'] then return end
  redis.call('EXISTS', keys.spare())
  looked['\t'] = true
end

-- weightOf is a tenant's weight, mostOf how many of its jobs, or of each of its users, may be out
-- at once, 0 being no limit, closed whether nothing of it is taken in, for it is being deleted, and reviewed whether its jobs
-- wait for an admin's review. All are read by one command; of another type, nothing is noted there.
local weights, mosts, closings, reviews = {}, {}, {}, {}
local function weightOf(tenant)
  if not weights[tenant] then
    local h = redis.pcall('HMGET', keys.weights(), tenant, '\t' .. tenant, '\t\n' .. tenant, '\t\r' .. tenant)
    weights[tenant], mosts[tenant], closings[tenant], reviews[tenant] = h[1] or '1', h.err and '0 r9e15' or h[2] or '0', h[3], h[4]
  end
  return weights[tenant]
end
local function mostOf(owner)
  local tenant = string.match(owner, '^[^/]*')
  weightOf(tenant)
  return tonumber(string.match(mosts[tenant], tenant == owner and '^%d+' or ' u(%d+)') or 0)
end
local function ownerOf(j) return j.t .. '/' .. j.us end
local function closed(tenant)
  weightOf(tenant)
  return closings[tenant] and now < tonumber(closings[tenant])
end
local function reviewed(tenant)
  weightOf(tenant)
  local till = string.match(reviews[tenant] or '', '^%d+ (%d+)$')
  return till and now < tonumber(till)
end

-- loadOf is how many jobs of a pool wait and run, what its calls cost, and what one tenant was
-- served in it of late. pooled in account.lua keeps it up to date.
local loads = {}
local function loadOf(pool, tenant)
  if not loads[pool] then
    local h = redis.call('HMGET', keys.load(pool), 'queued', 'running', 'cost', 'guess', 'stage', 'begun', '\t' .. (tenant or ''))
    loads[pool] = { queued = tonumber(h[1]) or 0, running = tonumber(h[2]) or 0, cost = tonumber(h[3]), guess = tonumber(h[4]), stage = tonumber(h[5]) or 0,
      begun = tonumber(h[6]) or 0, tenant = tenant, served = h[7] or '' }
  end
  return loads[pool]
end

-- waitingOf is how many jobs of a tenant wait. waits in account.lua keeps it up to date.
local waiting = {}
local function waitingOf(tenant)
  waiting[tenant] = waiting[tenant] or tonumber(redis.call('HGET', keys.waiting(), tenant) or 0)
  return waiting[tenant]
end

-- userWaitingOf is how many jobs wait that are one user's alone. userWaits in account.lua keeps it up to date.
local userWaiting = {}
local function userWaitingOf(tenant, user)
  local owner = tenant .. '/' .. user
  userWaiting[owner] = userWaiting[owner] or tonumber(redis.call('HGET', keys.userWaiting(tenant), user) or 0)
  return userWaiting[owner]
end

-- dayOf is how a tenant's tokens and money of today stand. book in account.lua keeps it up to date.
local today, days = math.floor(now / 86400000), {}
local function dayOf(tenant)
  if not days[tenant] then
    local h = redis.call('HMGET', keys.day(tenant), 'd', 'u', 'r', 'mu', 'mr')
    local begun = tonumber(h[1]) == today
    days[tenant] = {
      key = keys.day(tenant), begun = begun, used = begun and tonumber(h[2]) or 0, reserved = begun and tonumber(h[3]) or 0,
      paid = begun and tonumber(h[4] or 0) or 0, pledged = begun and tonumber(h[5] or 0) or 0, money = begun and (h[4] or h[5]) and true, -- is written there: book puts zeros in its place
    }
  end
  return days[tenant]
end

-- daysOf are the days of all that work counts to: its tenant's and, where it is one user's alone, that user's.
local function daysOf(tenant, user)
  if not user then return { dayOf(tenant) } end
  local owner = tenant .. '/' .. user
  if not days[owner] then
    local key = keys.userDay(today, tenant)
    local was, n = redis.call('HGET', key, user), {}
    for sum in string.gmatch(was or '', '%-?%d+') do n[#n + 1] = tonumber(sum) end
    days[owner] = { key = key, user = user, begun = was and true, used = n[1] or 0, reserved = n[2] or 0, paid = n[3] or 0, pledged = n[4] or 0 }
  end
  return { dayOf(tenant), days[owner] }
end

-- lineOf is the line of the ledger that the call under way of a job counts to, as it
-- stands, or nil where its start has not said whom it asks. post in account.lua keeps
-- it up to date. Callers invent names of models: past some, those of an account share a line.
local ledgerMost = 200
local ledgerLines = {}
local function lineAt(key, whose, name, most)
  name = whose .. name
  local id = key .. '\n' .. name
  if not ledgerLines[id] then
    local was, sums = redis.call('HGET', key, name), {}
    if not was and redis.call('HLEN', key) >= most then
      name = whose .. string.match(string.sub(name, #whose + 1), '^[^\n]*') .. '\n*'
      was = redis.call('HGET', key, name)
    end
    for n in string.gmatch(was or '', '%-?%d+') do sums[#sums + 1] = tonumber(n) end
    ledgerLines[id] = { key = key, name = name, begun = was and true, sums = sums }
  end
  return ledgerLines[id]
end
local function lineOf(j)
  local name = string.match(j.ask or '', '^%-?%d+ (.*)$')
  return name and lineAt(keys.ledger(today, j.t), '', name, ledgerMost)
end

-- userLineOf is lineOf among those of a tenant's users; nil: the job is no single one's.
local function userLineOf(j)
  local name = j.us and string.match(j.ask or '', '^%-?%d+ (.*)$')
  return name and lineAt(keys.userLedger(today, j.t), j.us .. '\n', name, 10 * ledgerMost)
end

-- hooksOf is what the endpoints of a tenant take, each endpoint and its events in turn.
local hooks = {}
local function hooksOf(tenant)
  hooks[tenant] = hooks[tenant] or redis.call('HGETALL', keys.hooks(tenant))
  return hooks[tenant]
end

-- envelopeOf is what never changes about a job, or nil.
local function envelopeOf(j)
  if j.e == nil then j.e = redis.call('HGET', j.key, 'e') end
  return j.e or nil
end

-- ownURL is the address that a job asked for itself, or nil.
local function ownURL(j)
  local e = envelopeOf(j)
  return e and string.find(e, '"w":"', 1, true) and cjson.decode(e).w or nil
end

-- fitsPool looks at what every move of a pool's jobs writes, and claim, and at further sets.
local function fitsPool(pool, ...)
  if not looked[pool] then
    sorted(keys.handed(pool), keys.held(pool), keys.running(pool), keys.fallbacks(pool), keys.ring(pool),
      keys.turns(pool, 'high'), keys.turns(pool, 'normal'), keys.turns(pool, 'low'), ...)
    loadOf(pool)
    looked[pool] = true
  elseif ... then
    sorted(...)
  end
end

local function fitsBytes()
  if looked['\n'] then return end
  redis.call('HLEN', keys.bytes())
  looked['\n'] = true
end

-- fitsTenant looks at all that a tenant's work is counted in.
local function fitsTenant(tenant)
  waitingOf(tenant)
  fitsBytes()
  dayOf(tenant)
end

-- fitsBatch looks at what the moves of a job of a batch write of that.
local function fitsBatch(j)
  if j.c and not looked[j.c] then
    redis.call('HLEN', keys.batch(j.c))
    looked[j.c] = true
  end
end

-- fits looks at what a job's moves between waiting and running write, and at further sets.
local function fits(j, ...)
  local group = j.sh or j.fo
  if group then
    fitsPool(j.p, keys.backlog(j.p, j.t), keys.followers(j.p, group), ...)
  else
    fitsPool(j.p, keys.backlog(j.p, j.t), ...)
  end
  waitingOf(j.t)
  if j.us then userWaitingOf(j.t, j.us) end
  fitsBatch(j)
end

-- fitsOut looks at what is to be sound about a job that goes out of a backlog that was read just now.
local function fitsOut(j)
  if j.sh or j.fo then fits(j) else fitsBatch(j) end
end

-- fitsEvents looks at what a tenant's events write.
local function fitsEvents(tenant)
  if looked[tenant .. '\r'] then return end
  sorted(keys.deliveries(tenant), keys.deliveriesExpiring(), keys.lanes(tenant), keys.places(tenant),
    keys.senders(), keys.resting(), keys.failing(), keys.retries(), keys.sending())
  each('HLEN', keys.hooks(tenant), keys.poolHooks(), keys.flying())
  redis.call('GET', keys.serial())
  looked[tenant .. '\r'] = true
end

-- fitsEnd looks at what a job's end writes, beside fits.
local function fitsEnd(j) -- seldom
  loadOf(j.p, j.t)
  fits(j, keys.expiring(), keys.due(), keys.deadlines(), keys.ledgers())
  lineOf(j)
  userLineOf(j)
  if j.q then daysOf(j.t, j.us) end
  if j.qb then fitsBytes() end
  if j.dl > 0 then redis.call('LLEN', keys.late()) end
  if hooksOf(j.t)[1] or ownURL(j) then -- else nobody is told
    fitsEvents(j.t)
    redis.call('LLEN', keys.tellings(j.id))
  end
end

-- fitsSweep looks at what a sweep reads and writes whatever the job.
local function fitsSweep()
  sorted(keys.deadlines(), keys.due(), keys.expiring(), keys.unfolding(), keys.staging(), keys.atLimit(),
    keys.deliveriesExpiring(), keys.senders(), keys.resting(), keys.failing(), keys.retries(), keys.sending())
  each('HLEN', keys.waiting(), keys.flying(), keys.poolHooks())
  each('GET', keys.swept(), keys.grace(), keys.serial())
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
