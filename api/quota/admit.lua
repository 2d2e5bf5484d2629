-- Takes submits from a tenant's allowance so that no 60 s hold more than it has, and gives back what was not accepted.
-- Resends have an account of their own, in the same form.
-- KEYS[1]  the tenant's account: a hash of seen (Redis's time of the last change, ms), skew (what the account's own
--          time is ahead of that, ms: it stands still while a clock that was set back catches up, and never goes back),
--          n (submits of the last 60 s), and by asker what its last question but a refused one was answered
-- KEYS[2]  the log of these submits, oldest first: a list of "T COUNT". T is the account's time after the submits, to
--          10 ms, so that a tenant of any allowance has at most 6,001 entries
-- ARGV[1]  now in ms, or '' for Redis TIME: only tests and the simulator give one
-- ARGV[2]  {by: the asker, who asks one thing at a time; n: counts what it asks, a question that comes again after its
--          answer was lost is answered the same; per_minute: submits allowed; take: a list of how many submits are asked
--          for, each all or none, in order; back: a list of {T, how many}, each T once, to give back}, read as a
-- Returns  {T of what was taken; submits left; ms until all are there again; for each of take 0 when it was taken, else
--          ms until it would pass if nothing else came}.
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

local length = redis.call('LLEN', log)
local given = {} -- by index, the counts of entries that give back

-- entry is the time and count of a place in the log; nil where there is none.
local function entry(i)
  local t, count = string.match(redis.call('LINDEX', log, i) or '', '^(%d+) (%d+)$')
  if t then return tonumber(t), given[i] or tonumber(count) end
end

local first = 0 -- that still counts
local t, count = entry(first)
while t and (t + window <= at or count == 0) do
  first, total = first + 1, total - count
  t, count = entry(first)
end
if not t then total = 0 end

-- Times rise, so a submit is found by halving.
for _, b in ipairs(a.back) do
  local low, high = first, length - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if entry(middle) < b[1] then low = middle + 1 else high = middle end
  end
  local found, has = entry(low)
  if found == b[1] then
    local n = math.min(has, b[2])
    given[low], total = has - n, total - n
  end
end

-- waiting is how long until so many submits have left the window.
local function waiting(need)
  for i = first, length - 1 do
    local when, n = entry(i)
    need = need - n
    if need <= 0 then return when + window - at end
  end
  return slot + window - at -- what is taken now
end

local took, said, waits = 0, { slot, 0, 0 }, {}
for _, want in ipairs(a.take) do
  local need = total + want - a.per_minute
  if need <= 0 then
    total, took = total + want, took + want
    said[#said + 1] = 0
  else
    waits[need] = waits[need] or waiting(need)
    said[#said + 1] = waits[need]
  end
end
said[2] = math.max(0, a.per_minute - total)
if took > 0 then
  said[3] = slot + window - at
elseif total > 0 then
  for i = length - 1, first, -1 do
    local last, n = entry(i)
    if n > 0 then
      said[3] = last + window - at
      break
    end
  end
end
if took == 0 and setback == 0 and next(given) == nil then return said end

redis.call('EXISTS', account) -- whether an end may be set is another permission, looked at before the first write

local function text(n) return string.format('%.0f', n) end
said[#said + 1] = a.n
redis.call('HSET', account, 'seen', text(now), 'skew', text(skew), 'n', text(total), a.by, cjson.encode(said))
table.remove(said)
if took > 0 then
  local last, n = entry(length - 1)
  if last == slot and length > first then
    given[length - 1] = n + took
  else
    redis.call('RPUSH', log, text(slot) .. ' ' .. text(took))
  end
end
for i, n in pairs(given) do
  redis.call('LSET', log, i, text(entry(i)) .. ' ' .. text(n))
end
if first > 0 then redis.call('LTRIM', log, first, -1) end
-- What nobody touches says nothing once its window is over.
redis.call('PEXPIRE', account, 2 * window)
redis.call('PEXPIRE', log, 2 * window)
if redis.call('HLEN', account) > 67 then -- of processes that have ended, most of them
  for _, field in ipairs(redis.call('HKEYS', account)) do
    if field ~= 'seen' and field ~= 'skew' and field ~= 'n' and field ~= a.by then redis.call('HDEL', account, field) end
  end
end
return said
