-- Takes submits from a tenant's allowance so that no 60 s hold more than it has, and gives back what was not accepted.
-- Resends have an account of their own, in the same form.
-- KEYS[1]  the tenant's account: a hash of seen (Redis's time of the last change, ms), skew (what the account's own
--          time is ahead of that, ms: it stands still while a clock that was set back catches up, and never goes back),
--          n (submits of the last 60 s), and by asker what its last question but a refused one was answered
-- KEYS[2]  the log of these submits, oldest first: a list of "T COUNT". T is the account's time after the submits, to
--          10 ms, so that a tenant of any allowance has at most 6,001 entries
-- KEYS[3]  and on, for each of the users: a hash of n (submits of the last 60 s that were that user's), and the log of
--          those, in the tenant's time
-- ARGV[1]  now in ms, or '' for Redis TIME: only tests and the simulator give one
-- ARGV[2]  {by: the asker, who asks one thing at a time; n: counts what it asks, a question that comes again after its
--          answer was lost is answered the same; per_minute: submits allowed; take: a list of how many submits are asked
--          for, each all or none, in order; back: a list of {T, how many}, each T once, to give back; users: for each user of
--          whom something is asked {per_minute: submits allowed to it alone, take: those of take that are its, by their
--          places there, back}}, read as a. What a user gives back is in both
-- Returns  {T of what was taken; submits left; ms until all are there again; for each of take 0 when it was taken, else
--          ms until it would pass by the tenant's allowance if nothing else came; then for each user submits left; ms until all are
--          there again; and ms likewise until each of its takes passes by its own}.
local window, step = 60000, 10
local a = cjson.decode(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end
local account, log = KEYS[1], KEYS[2]

local kept = redis.call('HMGET', account, 'seen', 'skew', 'n', a.by)
if kept[4] then
  local said = cjson.decode(kept[4])
  if table.remove(said) == a.n then return said end
end
local setback = math.max(0, tonumber(kept[1] or 0) - now)
local skew, total = tonumber(kept[2] or 0) + setback, tonumber(kept[3] or 0)
local at = now + skew
local slot = (math.floor(at / step) + 1) * step -- later than now, which has lost its microseconds

-- opened is a log with what counts of it, after so much of it was given back.
local function opened(key, total, per_minute, back)
  local l = { key = key, length = redis.call('LLEN', key), given = {}, first = 0, total = total, per_minute = per_minute, took = 0, waits = {} }
  -- entry is the time and count of a place in the log; nil where there is none. given are, by index, the counts of entries that give back.
  function l.entry(i)
    local t, count = string.match(redis.call('LINDEX', key, i) or '', '^(%d+) (%d+)$')
    if t then return tonumber(t), l.given[i] or tonumber(count) end
  end
  function l.changed() return l.took > 0 or next(l.given) ~= nil end
  local t, count = l.entry(0) -- first is the first that still counts
  while t and (t + window <= at or count == 0) do
    l.first, l.total = l.first + 1, l.total - count
    t, count = l.entry(l.first)
  end
  if not t then l.total = 0 end
  -- Times rise, so a submit is found by halving.
  for _, b in ipairs(back) do
    local low, high = l.first, l.length - 1
    while low < high do
      local middle = math.floor((low + high) / 2)
      if l.entry(middle) < b[1] then low = middle + 1 else high = middle end
    end
    local found, has = l.entry(low)
    if found == b[1] then
      local n = math.min(has, b[2])
      l.given[low], l.total = has - n, l.total - n
    end
  end
  return l
end

-- waiting is how long until so many more are allowed; 0: now.
local function waiting(l, want)
  local need = l.total + want - l.per_minute
  if need <= 0 then return 0 end
  if l.waits[need] then return l.waits[need] end
  local left, wait = need, slot + window - at -- what is taken now
  for i = l.first, l.length - 1 do
    local when, n = l.entry(i)
    left = left - n
    if left <= 0 then
      wait = when + window - at
      break
    end
  end
  l.waits[need] = wait
  return wait
end

-- full is how long until all are there again.
local function full(l)
  if l.took > 0 then return slot + window - at end
  for i = l.total > 0 and l.length - 1 or -1, l.first, -1 do
    local last, n = l.entry(i)
    if n > 0 then return last + window - at end
  end
  return 0
end

local function text(n) return string.format('%.0f', n) end

-- keep writes what has changed of a log.
local function keep(l)
  if l.took > 0 then
    local last, n = l.entry(l.length - 1)
    if last == slot and l.length > l.first then
      l.given[l.length - 1] = n + l.took
    else
      redis.call('RPUSH', l.key, text(slot) .. ' ' .. text(l.took))
    end
  end
  for i, n in pairs(l.given) do
    redis.call('LSET', l.key, i, text(l.entry(i)) .. ' ' .. text(n))
  end
  if l.first > 0 then redis.call('LTRIM', l.key, l.first, -1) end
  redis.call('PEXPIRE', l.key, 2 * window) -- what nobody touches says nothing once its window is over
end

local all, users, of = opened(log, total, a.per_minute, a.back), {}, {}
for u, asked in ipairs(a.users) do
  users[u] = opened(KEYS[2 + 2 * u], tonumber(redis.call('HGET', KEYS[1 + 2 * u], 'n') or 0), asked.per_minute, asked.back)
  users[u].own = {}
  for _, i in ipairs(asked.take) do of[i] = users[u] end
end

local said = { slot, 0, 0 }
for i, want in ipairs(a.take) do
  local own = of[i]
  local wait, its = waiting(all, want), own and waiting(own, want) or 0
  if wait == 0 and its == 0 then
    for _, l in ipairs({ all, own }) do l.total, l.took = l.total + want, l.took + want end
  end
  said[#said + 1] = wait
  if own then own.own[#own.own + 1] = its end
end
said[2], said[3] = math.max(0, all.per_minute - all.total), full(all)
for _, l in ipairs(users) do
  for _, n in ipairs({ math.max(0, l.per_minute - l.total), full(l), unpack(l.own) }) do said[#said + 1] = n end
end
if not all.changed() and setback == 0 then return said end

redis.call('EXISTS', account) -- whether an end may be set is another permission, looked at before the first write
said[#said + 1] = a.n
redis.call('HSET', account, 'seen', text(now), 'skew', text(skew), 'n', text(all.total), a.by, cjson.encode(said))
table.remove(said)
keep(all)
redis.call('PEXPIRE', account, 2 * window)
for u, l in ipairs(users) do
  if l.changed() then
    redis.call('HSET', KEYS[1 + 2 * u], 'n', text(l.total))
    redis.call('PEXPIRE', KEYS[1 + 2 * u], 2 * window)
    keep(l)
  end
end
if redis.call('HLEN', account) > 67 then -- of processes that have ended, most of them
  for _, field in ipairs(redis.call('HKEYS', account)) do
    if field ~= 'seen' and field ~= 'skew' and field ~= 'n' and field ~= a.by then redis.call('HDEL', account, field) end
  end
end
return said
