-- What every script knows of webhooks: an event becomes one delivery for each
-- endpoint that takes it, in the same move that made it.

-- A lane may have so many deliveries under way at once. One whose last attempt
-- failed has only a few, and one a second, until one arrives: it holds nobody up,
-- and a receiver that is down is not hammered.
local wmost, wfew, wsick = 16, 2, 600000

local function wfails(lane)
  local bad = redis.call('ZSCORE', keys.failing(), lane)
  return bad and bad + wsick > now
end

-- wroom is how many more of a lane may be under way.
local function wroom(lane, fails)
  return (fails and wfew or wmost) - tonumber(redis.call('HGET', keys.flying(), lane) or 0)
end

-- wpace is how many of a lane may go now by its pace, nil for any number; then
-- from when on one may, and ms from one to the next.
local function wpace(lane, fails)
  local rate = fails and 1 or tonumber(redis.call('HGET', keys.endpoint(lane), 'mx') or 0)
  if rate <= 0 then return nil end
  local every, burst = 1000 / rate, math.max(1, math.floor(rate / 10))
  local next = math.max(now, tonumber(redis.call('GET', keys.lanePace(lane)) or 0))
  return math.floor((now - next) / every + burst), next - (burst - 1) * every, every
end

-- wjoin gives a tenant or a lane a turn behind those that wait at the present one.
-- Idling saves nothing up, and who comes and goes with one delivery passes nobody.
local function wjoin(ring, member, turn)
  if redis.call('ZSCORE', ring, member) then return end
  local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
  redis.call('ZADD', ring, first[2] and first[2] + 1 or turn, member)
end

-- wline puts a lane where the next claim finds it, when it has work and room. Some
-- time later it is looked at again, by whoever sweeps then: a release before this
-- one may, which knows no turns of tenants.
local function wline(tenant, lane)
  if redis.call('ZSCORE', keys.lanes(tenant), lane) then return end
  if wroom(lane, wfails(lane)) <= 0 or redis.call('EXISTS', keys.lane(lane)) == 0 then return end
  wjoin(keys.lanes(tenant), lane, 0)
  wjoin(keys.senders(), tenant, without('GET', keys.sendersTurn()) or 0)
  redis.call('ZADD', keys.resting(), 'NX', now + 30000, lane)
end

-- wowner is the tenant of a lane that has something ready, or nil.
local function wowner(lane)
  local id = redis.call('ZRANGE', keys.lane(lane), 0, 0)[1]
  return id and redis.call('HGET', keys.delivery(id), 't') or nil
end

-- wbroken puts a delivery off whose record or lane cannot be read: it holds no place,
-- and up none of the others.
local function wbroken(id) redis.call('ZADD', keys.retries(), now + 60000, id) end

local function wready(id, tenant, lane)
  if type(redis.pcall('ZADD', keys.lane(lane), now, id)) == 'table' then
    wbroken(id)
  else
    wline(tenant, lane)
  end
end

-- wland takes the places of a lane's deliveries back.
local function wland(ids, tenant, lane)
  redis.call('ZREM', keys.sending(), unpack(ids))
  redis.call('ZREM', keys.places(tenant), unpack(ids))
  if redis.call('HINCRBY', keys.flying(), lane, -#ids) <= 0 then redis.call('HDEL', keys.flying(), lane) end
end

-- wlog appends a line to a log. The oldest go when it passes 16 KiB.
local function wlog(log, line)
  log = (log or '') .. line .. '\n'
  while #log > 16384 do
    local cut = string.find(log, '\n', 1, true)
    if not cut or cut == #log then break end
    log = string.sub(log, cut + 1)
  end
  return log
end

-- wkept is how long a delivery is kept: as long as results, and a week at least.
local wkept = math.max(ttl, 604800000)

-- deliver writes one delivery, of the tenant's or of one user's, and returns its id.
local function deliver(tenant, endpoint, url, kind, object, event, detail, whose) -- seldom
  local id = string.format('dlv_%013d%06d', now, redis.call('INCR', keys.serial()) % 1000000)
  local lane = endpoint
  if endpoint == '' then lane = tenant .. '|' .. (string.match(url, '^%a+://([^/?#]+)') or '') end
  local d = keys.delivery(id)
  redis.call('HSET', d, 't', tenant, 'l', lane, 'y', kind, 'o', object, 'v', event, 's', 'pending', 'ct', now)
  if endpoint ~= '' then
    redis.call('HSET', d, 'w', endpoint)
    redis.pcall('ZADD', keys.sent(endpoint), 0, id) -- a list that is of another type holds nothing up
  else
    redis.call('HSET', d, 'u', url)
  end
  if detail ~= '' then redis.call('HSET', d, 'x', detail) end
  if whose then redis.call('HSET', d, 'us', whose) end
  if string.sub(kind, 1, 4) == 'job.' then
    redis.call('RPUSH', keys.tellings(object), id)
    redis.call('PEXPIRE', keys.tellings(object), wkept)
  end
  redis.call('ZADD', keys.deliveries(tenant), 0, id)
  redis.call('ZADD', keys.deliveriesExpiring(), now + wkept, id)
  wready(id, tenant, lane)
  return id
end

local function wwake() redis.pcall('PUBLISH', keys.control(), 'deliver now') end

-- takerOf is the user whose endpoint takes only what is that user's; nil: the tenant's takes all.
local function takerOf(events) return string.match(events, '\n(.*)$') end

-- tell writes the deliveries of an event: to the endpoints that take it, but
-- for one, and to the job's own URL, if it has one. whose is the user whose the object alone is. Nobody is told of a tenant that is being deleted.
tell = function(tenant, kind, object, event, url, detail, but, whose)
  local hooks, made = hooksOf(tenant), false
  if (url or hooks[1]) and closed(tenant) then return end
  for i = 1, #hooks, 2 do
    local taker = takerOf(hooks[i + 1])
    if hooks[i] ~= but and (not taker or taker == whose) and string.find(hooks[i + 1], ',' .. kind .. ',', 1, true) then
      deliver(tenant, hooks[i], '', kind, object, event, detail, taker)
      made = true
    end
  end
  if url then
    deliver(tenant, '', url, kind, object, event, detail, whose)
    made = true
  end
  if made then wwake() end
end

-- wserve hands out at most so many deliveries of a tenant, a few of a lane at a
-- turn, and returns how many.
local function wserve(tenant, most, tickets, lease)
  local ring, given = keys.lanes(tenant), 0
  while given < most do
    local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local lane = first[1]
    while lane and not pcall(fitsLane, lane) do
      redis.call('ZREM', ring, lane)
      redis.call('ZADD', keys.resting(), now + 60000, lane)
      first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
      lane = first[1]
    end
    if not lane then break end
    local q, fails, out = keys.lane(lane), wfails(lane), {}
    local free = wroom(lane, fails)
    local pace, from, every = wpace(lane, fails)
    local some = math.min(free, most - given, pace or 4, 4)
    local got = some > 0 and redis.call('ZPOPMIN', q, some) or {}
    for i = 1, #got, 2 do
      local d = keys.delivery(got[i])
      local there = redis.pcall('HLEN', d)
      if type(there) == 'table' then
        wbroken(got[i])
      elseif there > 0 then
        tickets[#tickets + 1] = got[i]
        tickets[#tickets + 1] = redis.call('HINCRBY', d, 'f', 1)
        out[#out + 1] = now + lease
        out[#out + 1] = got[i]
      end
    end
    local n = #out / 2
    if n > 0 then
      redis.call('ZADD', keys.sending(), unpack(out))
      redis.call('ZADD', keys.places(tenant), unpack(out))
      redis.call('HINCRBY', keys.flying(), lane, n)
      if pace then
        local last = math.max(now, tonumber(redis.call('GET', keys.lanePace(lane)) or 0))
        redis.call('SET', keys.lanePace(lane), last + n * every, 'PX', 60000)
      end
    end
    given = given + n
    if pace and pace <= 0 and free > 0 then
      redis.call('ZADD', keys.resting(), math.ceil(from), lane)
      redis.call('ZREM', ring, lane)
    elseif free <= n or #got < 2 * some or redis.call('EXISTS', q) == 0 then
      redis.call('ZREM', ring, lane)
    else
      redis.call('ZADD', ring, first[2] + 1, lane)
    end
  end
  return given
end

-- wmay is how many more places a tenant may have of those that are free. It may hold
-- half as many as it leaves free: a third of all when it is alone, the fewer the more
-- the others hold. So one whose receivers hang leaves room for everybody else.
local function wmay(tenant, room)
  local held = keys.places(tenant)
  redis.call('ZREMRANGEBYSCORE', held, '-inf', '(' .. now) -- what a release before this one has landed
  local n = redis.call('ZCARD', held)
  return math.max(math.floor((room - 2 * n) / 3), n == 0 and 1 or 0)
end

-- wclaim hands out deliveries until depth of them have a place: a turn of a tenant's
-- is 16 of them, over weight. It returns id and fence of each. The same claim, sent
-- again after a lost answer, is answered again. What nobody has taken (delivery_open.lua)
-- when the lease ends is handed out anew.
local function wclaim(claim, depth, lease)
  local kept = keys.claimed(claim)
  local before = redis.call('GET', kept)
  if before then return cjson.decode(before) end
  local tickets, passed = {}, {}
  local ring, room, turn = keys.senders(), depth - redis.call('ZCARD', keys.sending()), nil
  while room > 0 and #passed < 64 do
    local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local tenant = first[1]
    if not tenant then break end
    local sound = pcall(fitsEvents, tenant)
    local may = sound and wmay(tenant, room) or 0
    room = room - (may > 0 and wserve(tenant, math.min(may, 16), tickets, lease) or 0)
    turn = first[2] + 1 / weightOf(tenant)
    if not sound or redis.call('EXISTS', keys.lanes(tenant)) == 0 then
      redis.call('ZREM', ring, tenant)
    elseif may > 0 then
      redis.call('ZADD', ring, turn, tenant)
    else -- it has all that it may have now, and goes on with the next claim
      redis.call('ZREM', ring, tenant)
      passed[#passed + 1] = turn
      passed[#passed + 1] = tenant
    end
  end
  if passed[1] then redis.call('ZADD', ring, unpack(passed)) end
  if turn then redis.call('SET', keys.sendersTurn(), turn) end
  if tickets[1] then redis.call('SET', kept, cjson.encode(tickets), 'PX', lease) end
  return tickets
end

-- unquoted is a delivery's log without what receivers said, which may be what they
-- were sent. The answer is the last member of a line (tasks.DeliveryAttempt).
local function unquoted(log)
  return (string.gsub(log, '[^\n]+', function(line)
    local at = string.find(line, ',"answer":"', 1, true)
    return at and string.sub(line, 1, at - 1) .. '}' or line
  end))
end

local loose = {} -- where bodies lie that are of use no more

-- forget removes a job and every copy of what it asked and of its answer, why
-- being "deleted" or "expired". What is still to be told of it is told without them.
-- Its Idempotency-Key is free when its caller had it deleted; else the key goes on
-- standing for it, so that a late repeat is not paid for.
local function forget(tenant, id, why)
  local h = redis.call('HMGET', keys.job(id), 'ca', 'ik', 'c', 'br', 'rr', 'e')
  local all = marks(id, h[6])
  local tellings = redis.call('LRANGE', keys.tellings(id), 0, -1)
  local ikey = h[2] and keys.idempotency(tenant, h[2])
  local mine = ikey and redis.call('HGET', ikey, 'id') == id
  sorted(keys.jobs(tenant), keys.expiring(), keys.batches(tenant), all and keys.marked(tenant) or keys.jobs(tenant))
  if h[1] then redis.call('DEL', keys.answer(h[1])) end
  if mine then
    if why == 'deleted' then redis.call('DEL', ikey) else redis.call('HDEL', ikey, 'ans') end
  end
  for _, delivery in ipairs(tellings) do
    local d = keys.delivery(delivery)
    local there = redis.pcall('HLEN', d)
    if type(there) == 'number' and there > 0 then
      redis.call('HSET', d, 'gone', why, 'log', unquoted(redis.call('HGET', d, 'log') or ''))
      redis.call('HDEL', d, 'b')
    end
  end
  if h[4] then loose[#loose + 1] = h[4] end
  if h[5] then loose[#loose + 1] = h[5] end
  redis.call('DEL', keys.job(id), keys.text(id), keys.events(id), keys.wanted(id), keys.tellings(id))
  if h[3] then -- the list forgets a batch with the last of its jobs, which ends its time when the record does
    local left = redis.call('PTTL', keys.batch(h[3]))
    if left ~= -1 and left < 5000 then redis.call('ZREM', keys.batches(tenant), h[3]) end
  end
  redis.call('ZREM', keys.jobs(tenant), id)
  if all then redis.call('ZREM', keys.marked(tenant), unpack(all)) end
  redis.call('ZREM', keys.expiring(), tenant .. '|' .. id)
end

-- wdisable ends the sending to an endpoint and tells the tenant's others.
local function wdisable(endpoint, why)
  local wh = keys.endpoint(endpoint)
  local h = redis.call('HMGET', wh, 't', 'dis', 'us')
  if not h[1] or h[2] then return end
  redis.call('HSET', wh, 'dis', now, 'why', why)
  redis.call('ZADD', keys.disabledHooks(), now, endpoint)
  redis.call('HDEL', keys.hooks(h[1]), endpoint)
  hooks[h[1]] = nil
  redis.call('HDEL', keys.poolHooks(), endpoint)
  tell(h[1], 'endpoint.disabled', endpoint, 'evt_' .. string.sub(endpoint, 5) .. '_' .. string.format('%d', now), nil, why, endpoint, h[3])
end
