-- What every script of this package begins with: the clock and the moves that
-- more than one script makes.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- spare lets a script go on in a full Redis: one that has begun to write is not
-- stopped in the middle. For moves that jobs need to come to their end, which
-- makes room; never for what takes more in.
local function spare() redis.call('DEL', keys.spare()) end

local phase = {
  queued = 'queued', scheduled = 'queued', retrying = 'queued', running = 'running',
  succeeded = 'succeeded', failed = 'failed', canceled = 'canceled', expired = 'expired',
}

local function final(status)
  local p = phase[status]
  return p ~= 'queued' and p ~= 'running'
end

-- load returns what a move needs to know of a job, or nil when there is none.
local function load(id)
  local h = redis.call('HMGET', keys.job(id), 's', 't', 'p', 'c', 'f', 'k', 'dl', 'm', 'cur', 'fb', 'sh', 'fo', 'q')
  if not h[1] then return nil end
  return {
    id = id, key = keys.job(id), s = h[1], t = h[2], p = h[3], c = h[4] or nil,
    f = tonumber(h[5] or 0), k = h[6], dl = tonumber(h[7] or 0), m = tonumber(h[8] or 0), cur = h[9],
    fb = h[10] or nil, sh = h[11] or nil, fo = h[12] or nil, q = h[13] or nil,
  }
end

local function count(j, from, to)
  if from == to then return end
  local n = keys.load(j.p)
  if from == 'queued' or from == 'running' then redis.call('HINCRBY', n, from, -1) end
  if to == 'queued' or to == 'running' then redis.call('HINCRBY', n, to, 1) end
  if from == 'queued' then redis.call('HINCRBY', keys.waiting(), j.t, -1) end
  if to == 'queued' then redis.call('HINCRBY', keys.waiting(), j.t, 1) end
end

-- A tenant's tokens of the day. Every move that queues a job sets tokens aside by
-- take, every one that makes it final counts what it used by settle, each in the
-- script that moves the record: nothing can lie between the two, and what was set
-- aside comes back once, whoever ends the job.
local today = math.floor(now / 86400000)
local unknown = -1 -- tokens used by a call whose outcome nobody saw

local function account(tenant)
  local key = keys.day(tenant)
  local h = redis.call('HMGET', key, 'd', 'u', 'r')
  if tonumber(h[1]) ~= today then return { key = key, used = 0, reserved = 0 } end
  return { key = key, used = tonumber(h[2]), reserved = tonumber(h[3]) }
end

local function book(a)
  redis.call('HSET', a.key, 'd', today, 'u', string.format('%.0f', a.used), 'r', string.format('%.0f', a.reserved))
  redis.call('PEXPIREAT', a.key, (today + 1) * 86400000)
end

-- take sets tokens aside. It takes none and returns {"spent", tokens left, ms until
-- midnight UTC} where that would pass the most of a day; 0 is no limit.
local function take(tenant, tokens, most)
  if tokens == 0 then return nil end
  local a = account(tenant)
  local left = most - a.used - a.reserved
  if most > 0 and tokens > left then
    return { 'spent', math.max(0, left), (today + 1) * 86400000 - now }
  end
  a.reserved = a.reserved + tokens
  book(a)
end

-- settle counts what a job used in place of what was set aside for it, or all
-- of that where it is unknown. The record has nothing set aside afterwards.
local function settle(j, used)
  if not j.q then return end
  local tokens, day = string.match(j.q, '^(%d+) ?(%d*)$')
  if day == '' then day = redis.call('HGET', keys.batch(j.c or ''), 'qd') end
  tokens = tonumber(tokens)
  if used == unknown then used = tokens end
  redis.call('HDEL', j.key, 'q')
  j.q = nil
  local a = account(j.t)
  if tonumber(day) == today then
    a.used, a.reserved = a.used + used, a.reserved - tokens
  else -- the day that it was set aside on has paid for it; what is over that is of today
    a.used = a.used + math.max(0, used - tokens)
  end
  book(a)
end

-- charge counts what an attempt used that the job outlives.
local function charge(j, used)
  if not j.q or used <= 0 then return end
  local a = account(j.t)
  a.used = a.used + used
  book(a)
end

-- tell writes the deliveries of an event; webhook.lua has it.
local tell

-- note wakes those who wait for a job: "ended" when it is final, else its version. To
-- whoever waits for the end, a record that is not large comes with it, field by field,
-- each with its length before it: who has it need not read it, beside all that a
-- worker writes at just this moment. Nothing that is said here may end the script,
-- which has written by now: whoever may not be told looks by himself.
local function note(j, v)
  local channel = keys.note(j.id)
  if not final(j.s) then
    redis.pcall('PUBLISH', channel, v)
    return
  end
  local said = { 'ended ' }
  if (redis.pcall('PUBSUB', 'NUMSUB', channel)[2] or 0) > 0
    and redis.call('HSTRLEN', j.key, 'r') + redis.call('HSTRLEN', j.key, 'b') < 65536 then
    for _, part in ipairs(redis.call('HGETALL', j.key)) do
      said[#said + 1] = #part .. ':' .. part
    end
  end
  redis.pcall('PUBLISH', channel, table.concat(said))
end

-- become moves a job to a status, in its record and in every count.
local function become(j, to, ttl)
  local from, into = phase[j.s], phase[to]
  count(j, from, into)
  redis.call('HSET', j.key, 's', to)
  local v = redis.call('HINCRBY', j.key, 'v', 1)
  if j.c and from ~= into then
    local g = keys.batch(j.c)
    if redis.call('EXISTS', g) == 1 then
      redis.call('HINCRBY', g, from, -1)
      redis.call('HINCRBY', g, into, 1)
      if final(to) then
        local left = redis.call('HMGET', g, 'queued', 'running', 'whole')
        if tonumber(left[1] or 0) + tonumber(left[2] or 0) == 0 and left[3] then
          redis.call('HSET', g, 'ended', now)
          if ttl then
            redis.call('PEXPIRE', g, ttl)
            redis.call('PEXPIRE', keys.lines(j.c), ttl)
          end
          redis.pcall('PUBLISH', keys.note(j.c), 'ended')
          tell(j.t, 'batch.completed', j.c, 'evt_b' .. string.sub(j.c, 7) .. '_' .. string.format('%d', now), nil, '', ttl or 0)
        end
      end
    end
  end
  j.s = to
  note(j, v)
  return v
end

-- ownURL is the address that a job asked for itself, or nil.
local function ownURL(j)
  local e = redis.call('HGET', j.key, 'e')
  if not e or not string.find(e, '"w":"', 1, true) then return nil end
  return cjson.decode(e).w
end

-- leave takes a job out of every index of jobs under way, and from behind the one that it follows.
local function leave(j)
  redis.call('ZREM', keys.handed(j.p), j.id)
  redis.call('ZREM', keys.held(j.p), j.id)
  redis.call('ZREM', keys.running(j.p), j.id)
  if j.fb then redis.call('ZREM', keys.fallbacks(j.p), j.id) end
  if j.fo then redis.call('ZREM', keys.followers(j.p, j.fo), j.id) end
end

-- close ends the call under way in the job's log: n, started, ended, details.
-- ended is 0 when nobody knows. The oldest lines go when the log passes 16 KiB.
local function close(j, ended, details)
  if not j.cur then return end
  local log = (redis.call('HGET', j.key, 'log') or '') .. j.cur .. ' ' .. ended .. ' ' .. details .. '\n'
  while #log > 16384 do
    local cut = string.find(log, '\n', 1, true)
    if not cut or cut == #log then break end
    log = string.sub(log, cut + 1)
  end
  redis.call('HSET', j.key, 'log', log)
  redis.call('HDEL', j.key, 'cur', 'by')
  j.cur = nil
end

-- ring gives a job's tenant a turn in its pool, if it has none.
local function ring(j)
  local turns = keys.ring(j.p)
  if not redis.call('ZSCORE', turns, j.t) then
    -- A tenant that comes back starts at the present turn: idling saves nothing up.
    local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
    redis.call('ZADD', turns, first[2] or redis.call('GET', keys.turn(j.p)) or 0, j.t)
  end
end

-- backlog puts a job where the next pick finds it.
local function backlog(j)
  redis.call('ZADD', keys.backlog(j.p, j.t), j.k, j.id)
  if j.fb then redis.call('ZADD', keys.fallbacks(j.p), j.k, j.id) end
  ring(j)
end

-- pass ends a job's lead over those that ask the same: so many of them go into
-- the backlog, and the last of these leads the rest. So whoever follows has, at
-- any moment, somebody before it who will ask, or has asked.
local function pass(j, many)
  if not j.sh then return end
  local lead, fol = keys.leader(j.p, j.sh), keys.followers(j.p, j.sh)
  redis.call('HDEL', j.key, 'sh')
  redis.call('DEL', lead)
  local last
  while many > 0 do
    local popped = redis.call('ZPOPMIN', fol)[1]
    if not popped then break end
    local f = load(popped)
    if f and phase[f.s] == 'queued' then
      backlog(f)
      become(f, f.s)
      many, last = many - 1, f
    end
  end
  if last and redis.call('EXISTS', fol) == 1 then
    redis.call('HSET', last.key, 'sh', j.sh)
    redis.call('SET', lead, last.id)
  end
  j.sh = nil
end

-- divert makes a waiting job another pool's: to is the pool, passed how many of
-- its fallback models it has gone to, left how many remain. Its place in its
-- tenant's order stays; whoever holds it has lost it.
local function divert(j, to, passed, left)
  leave(j)
  pass(j, 1)
  if j.fo then
    redis.call('HDEL', j.key, 'fo')
    j.fo = nil
  end
  local q = keys.backlog(j.p, j.t)
  redis.call('ZREM', q, j.id)
  if redis.call('EXISTS', q) == 0 then redis.call('ZREM', keys.ring(j.p), j.t) end
  redis.call('HINCRBY', keys.load(j.p), 'queued', -1)
  redis.call('HINCRBY', keys.load(to), 'queued', 1)
  redis.call('HSETNX', j.key, 'p0', j.p)
  redis.call('HSET', j.key, 'p', to, 'fi', passed, 'nb', redis.call('HGET', j.key, 'n') or 0)
  if tonumber(left) > 0 then
    j.fb = left
    redis.call('HSET', j.key, 'fb', left)
  else
    j.fb = nil
    redis.call('HDEL', j.key, 'fb')
  end
  redis.call('HINCRBY', j.key, 'f', 1)
  j.p = to
  backlog(j)
  become(j, j.s)
end

-- finish makes a job final, having used so many tokens, and tells of it. A sweep
-- forgets it ttl later; should none come, the record ends soon after by itself.
local function finish(j, to, outcome, ttl, used)
  leave(j)
  redis.call('ZREM', keys.backlog(j.p, j.t), j.id)
  redis.call('ZREM', keys.due(), j.id)
  redis.call('ZREM', keys.deadlines(), j.id)
  redis.call('HSET', j.key, 'o', outcome, 'fin', now, 'exp', now + ttl)
  redis.call('HDEL', j.key, 'due')
  settle(j, used)
  local v = become(j, to, ttl)
  tell(j.t, 'job.' .. to, j.id, 'evt_' .. string.sub(j.id, 5) .. '_' .. v, ownURL(j), '', ttl)
  redis.call('PEXPIRE', j.key, ttl + 60000)
  redis.call('ZADD', keys.expiring(), now + ttl, j.t .. '|' .. j.id)
  -- Those that an answer waits for are done with at once, and need no pace; one
  -- that did not get it leaves the asking to the next.
  pass(j, to == 'succeeded' and 64 or 1)
end

-- expire ends a job whose deadline has passed; called says that a call was made
-- in vain just now, and used how many tokens it took, as far as is known.
local function expire(j, ttl, called, used)
  redis.call('RPUSH', keys.late(), j.id)
  local billed = called and 'true' or 'false'
  finish(j, 'expired', '{"error":{"code":"deadline_exceeded","message":"the deadline passed before the job was done","maybe_billed":' .. billed .. '}}', ttl, called and used or 0)
end
