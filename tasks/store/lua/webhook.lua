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

-- wline puts a lane where the next claim finds it, when it has work and room.
local function wline(lane)
  if wroom(lane, wfails(lane)) <= 0 or redis.call('EXISTS', keys.lane(lane)) == 0 then return end
  local ring = keys.lanes()
  if not redis.call('ZSCORE', ring, lane) then
    local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    redis.call('ZADD', ring, first[2] or redis.call('GET', keys.lanesTurn()) or 0, lane)
  end
end

local function wready(id, lane)
  redis.call('ZADD', keys.lane(lane), now, id)
  wline(lane)
end

-- wland takes back how many of a lane are under way no more.
local function wland(lane, n)
  if redis.call('HINCRBY', keys.flying(), lane, -n) <= 0 then redis.call('HDEL', keys.flying(), lane) end
end

-- wkept is how long a delivery is kept: as long as results, and a week at least.
local wkept = math.max(ttl, 604800000)

-- deliver writes one delivery and returns its id.
local function deliver(tenant, endpoint, url, kind, object, event, detail)
  local id = string.format('dlv_%013d%06d', now, redis.call('INCR', keys.serial()) % 1000000)
  local lane = endpoint
  if endpoint == '' then lane = tenant .. '|' .. (string.match(url, '^%a+://([^/?#]+)') or '') end
  local d = keys.delivery(id)
  redis.call('HSET', d, 't', tenant, 'l', lane, 'y', kind, 'o', object, 'v', event, 's', 'pending', 'ct', now)
  if endpoint ~= '' then
    redis.call('HSET', d, 'w', endpoint)
    redis.call('ZADD', keys.sent(endpoint), 0, id)
  else
    redis.call('HSET', d, 'u', url)
  end
  if detail ~= '' then redis.call('HSET', d, 'x', detail) end
  if string.sub(kind, 1, 4) == 'job.' then
    redis.call('RPUSH', keys.tellings(object), id)
    redis.call('PEXPIRE', keys.tellings(object), wkept)
  end
  redis.call('ZADD', keys.deliveries(tenant), 0, id)
  redis.call('ZADD', keys.deliveriesExpiring(), now + wkept, id)
  wready(id, lane)
  return id
end

local function wwake() redis.pcall('PUBLISH', keys.control(), 'deliver now') end

-- tell writes the deliveries of an event: to the endpoints that take it, but
-- for one, and to the job's own URL, if it has one.
tell = function(tenant, kind, object, event, url, detail, but)
  local hooks, made = redis.call('HGETALL', keys.hooks(tenant)), false
  for i = 1, #hooks, 2 do
    if hooks[i] ~= but and string.find(hooks[i + 1], ',' .. kind .. ',', 1, true) then
      deliver(tenant, hooks[i], '', kind, object, event, detail)
      made = true
    end
  end
  if url then
    deliver(tenant, '', url, kind, object, event, detail)
    made = true
  end
  if made then wwake() end
end

-- wclaim hands out deliveries until depth of them are under way, a few of a
-- lane at a turn; it returns id and fence of each.
local function wclaim(depth, lease)
  local tickets = {}
  local ring, room, turn = keys.lanes(), depth - redis.call('ZCARD', keys.sending()), nil
  while room > 0 do
    local first = redis.call('ZRANGE', ring, 0, 0, 'WITHSCORES')
    local lane = first[1]
    if not lane then break end
    local q, fails, out = keys.lane(lane), wfails(lane), {}
    local free = wroom(lane, fails)
    local pace, from, every = wpace(lane, fails)
    local most = math.min(free, room, pace or 4, 4)
    local got = most > 0 and redis.call('ZPOPMIN', q, most) or {}
    for i = 1, #got, 2 do
      local d = keys.delivery(got[i])
      if redis.call('EXISTS', d) == 1 then
        tickets[#tickets + 1] = got[i]
        tickets[#tickets + 1] = redis.call('HINCRBY', d, 'f', 1)
        out[#out + 1] = now + lease
        out[#out + 1] = got[i]
      end
    end
    local n = #out / 2
    if n > 0 then
      redis.call('ZADD', keys.sending(), unpack(out))
      redis.call('HINCRBY', keys.flying(), lane, n)
      if pace then
        local last = math.max(now, tonumber(redis.call('GET', keys.lanePace(lane)) or 0))
        redis.call('SET', keys.lanePace(lane), last + n * every, 'PX', 60000)
      end
    end
    room, turn = room - n, first[2] + 1
    if pace and pace <= 0 and free > 0 then
      redis.call('ZADD', keys.resting(), math.ceil(from), lane)
      redis.call('ZREM', ring, lane)
    elseif free <= n or #got < 2 * most or redis.call('EXISTS', q) == 0 then
      redis.call('ZREM', ring, lane)
    else
      redis.call('ZADD', ring, turn, lane)
    end
  end
  if turn then redis.call('SET', keys.lanesTurn(), turn) end
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

-- forget removes a job and every copy of what it asked and of its answer, why
-- being "deleted" or "expired". What is still to be told of it is told without them.
-- Its Idempotency-Key is free when its caller had it deleted; else the key goes on
-- standing for it, so that a late repeat is not paid for.
local function forget(tenant, id, why)
  local h = redis.call('HMGET', keys.job(id), 'ca', 'ik')
  if h[1] then redis.call('DEL', keys.answer(h[1])) end
  if h[2] then
    local ikey = keys.idempotency(tenant, h[2])
    if redis.call('HGET', ikey, 'id') == id then
      if why == 'deleted' then redis.call('DEL', ikey) else redis.call('HDEL', ikey, 'ans') end
    end
  end
  for _, delivery in ipairs(redis.call('LRANGE', keys.tellings(id), 0, -1)) do
    local d = keys.delivery(delivery)
    if redis.call('EXISTS', d) == 1 then
      redis.call('HSET', d, 'gone', why, 'log', unquoted(redis.call('HGET', d, 'log') or ''))
      redis.call('HDEL', d, 'b')
    end
  end
  redis.call('DEL', keys.job(id), keys.text(id), keys.wanted(id), keys.tellings(id))
  redis.call('ZREM', keys.jobs(tenant), id)
  redis.call('ZREM', keys.expiring(), tenant .. '|' .. id)
end

-- wdisable ends the sending to an endpoint and tells the tenant's others.
local function wdisable(endpoint, why)
  local wh = keys.endpoint(endpoint)
  local h = redis.call('HMGET', wh, 't', 'dis')
  if not h[1] or h[2] then return end
  redis.call('HSET', wh, 'dis', now, 'why', why)
  redis.call('HDEL', keys.hooks(h[1]), endpoint)
  redis.call('HDEL', keys.poolHooks(), endpoint)
  tell(h[1], 'endpoint.disabled', endpoint, 'evt_' .. string.sub(endpoint, 5) .. '_' .. string.format('%d', now), nil, why, endpoint)
end
