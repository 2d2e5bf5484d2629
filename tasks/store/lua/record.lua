-- The record of a job: its status and counts, its tenant's tokens, who is told.

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

local function book(day)
  redis.call('HSET', day.key, 'd', today, 'u', string.format('%.0f', day.used), 'r', string.format('%.0f', day.reserved))
  redis.call('PEXPIREAT', day.key, (today + 1) * 86400000)
end

-- take sets tokens aside. It takes none and returns {"spent", tokens left, ms until
-- midnight UTC} where that would pass the most of a day; 0 is no limit.
local function take(tenant, tokens, most)
  if tokens == 0 then return nil end
  local day = account(tenant)
  local left = most - day.used - day.reserved
  if most > 0 and tokens > left then
    return { 'spent', math.max(0, left), (today + 1) * 86400000 - now }
  end
  day.reserved = day.reserved + tokens
  book(day)
end

-- settle counts what a job used in place of what was set aside for it, or all
-- of that where it is unknown. The record has nothing set aside afterwards.
local function settle(j, used)
  if not j.q then return end
  local tokens, on = string.match(j.q, '^(%d+) ?(%d*)$')
  if on == '' then on = redis.call('HGET', keys.batch(j.c or ''), 'qd') end
  tokens = tonumber(tokens)
  if used == unknown then used = tokens end
  redis.call('HDEL', j.key, 'q')
  j.q = nil
  local day = account(j.t)
  if tonumber(on) == today then
    day.used, day.reserved = day.used + used, day.reserved - tokens
  else -- the day that it was set aside on has paid for it; what is over that is of today
    day.used = day.used + math.max(0, used - tokens)
  end
  book(day)
end

-- charge counts what an attempt used that the job outlives.
local function charge(j, used)
  if not j.q or used <= 0 then return end
  local day = account(j.t)
  day.used = day.used + used
  book(day)
end

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
local function become(j, to)
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
          redis.call('PEXPIRE', g, ttl)
          redis.call('PEXPIRE', keys.lines(j.c), ttl)
          redis.pcall('PUBLISH', keys.note(j.c), 'ended')
          tell(j.t, 'batch.completed', j.c, 'evt_b' .. string.sub(j.c, 7) .. '_' .. string.format('%d', now), nil, '')
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
