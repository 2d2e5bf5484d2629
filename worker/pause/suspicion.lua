-- suspicion: whom a row of failures speaks against is asked before anything stops.
-- record raises a suspicion, opinion hears what a process found, and the pool is
-- paused only when none finds otherwise; script.go puts this behind lib.lua.
--
-- Fields of the hash at KEYS[1]:
--   known      JSON, model -> ms: the models that succeeded last, and when that call was sent
--   worked|f   a call has succeeded with the key and address of this fingerprint
--   sick       JSON, model -> {since, next, tries, why, asked, stated}: they fail while
--              others do not; asked only while a process tries the model, whose lease ends at
--              next; stated is the end of the longest wait that the provider has stated
--   sus        the model under suspicion, '' for none; its other fields only mean something then
--   sus_at, sus_by, sus_why   since when, the process that raised it, what it had seen
--   sus_bad    JSON, process -> 1: asked, and could not have any model answered
--   sus_until  end of the lease of the process that asks
--   sus_fence  number of that lease
--   sus_told, sus_detail, sus_misfit, sus_after   what the first of sus_bad found: in words, in an
--              operator's, whether the address does not fit, the provider's Retry-After in ms
--   sus_next   when the next may be raised
--
-- KEYS[3]  hash: "p|" and a process -> ms, when it last showed itself; "m|" and a model -> JSON,
--          its book of calls, as the pool's in KEYS[1]. It ends an hour after the last write.

local seen_for = 3600    -- s
local alive_for = 15000  -- ms
local known_most = 8
local sick_most = 50
local patience = 5000    -- for the opinions of other processes
local first_word = 1500  -- who raised it is asked first
local calm = 3000        -- between two suspicions

local function table_of(f)
  if (h[f] or '') == '' then return {} end
  return cjson.decode(h[f])
end
local function keep(f, t) set(f, next(t) and cjson.encode(t) or '') end

-- show notes that a process lives.
local function show()
  local f = 'p|' .. a.holder
  if now - (tonumber(redis.call('HGET', KEYS[3], f)) or 0) < alive_for / 3 then return end
  spare()
  redis.call('HSET', KEYS[3], f, string.format('%.0f', now))
  redis.call('EXPIRE', KEYS[3], seen_for)
  if redis.call('HLEN', KEYS[3]) > 200 then
    for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
      if string.sub(name, 1, 2) == 'm|' then redis.call('HDEL', KEYS[3], name) end
    end
  end
end

-- others returns how many other processes live and make calls, and how many of them
-- have not been asked yet.
local function others()
  local living, unasked = 0, 0
  local asked, flat = table_of('sus_bad'), redis.call('HGETALL', KEYS[3])
  for i = 1, #flat, 2 do
    local who = string.match(flat[i], '^p|(.*)$')
    if who and who ~= a.holder and now - (tonumber(flat[i + 1]) or 0) < alive_for then
      living = living + 1
      if not asked[who] then unasked = unasked + 1 end
    end
  end
  return living, unasked
end

local function calm_down()
  for _, f in ipairs({'sus', 'sus_by', 'sus_why', 'sus_bad', 'sus_told', 'sus_detail', 'sus_misfit'}) do set(f, '') end
  set('sus_until', 0)
  set('sus_fence', num('sus_fence') + 1)
  set('sus_next', now + calm)
end

-- forgive forgets what was counted against a model, and against the pool.
local function forgive(model)
  forget_counts()
  redis.call('HDEL', KEYS[3], 'm|' .. model)
end

-- sicken holds a model back: it fails while others do not. Each failed try doubles
-- the time to the next, up to a minute; a wait that the provider states is kept.
local function sicken(model, why)
  local sick, n, oldest = table_of('sick'), 0, nil
  local one = sick[model] or {since = now, tries = 0}
  one.why, one.tries, one.asked = why, one.tries + 1, nil
  local wait = math.min(60000, a.interval * 2 ^ (one.tries - 1)) * (0.5 + 0.5 * a.rnd)
  if (a.wait or 0) > 0 then one.stated = math.max(one.stated or 0, now + a.wait) end
  one.next = math.max(now + wait, one.stated or 0)
  sick[model] = one
  for m, s in pairs(sick) do
    n = n + 1
    if not oldest or s.next < sick[oldest].next then oldest = m end
  end
  if n > sick_most then sick[oldest] = nil end
  keep('sick', sick)
end

-- cause_of names the cause of an outage. With an address that never worked it is the
-- address that does not fit.
local function cause_of(misfit)
  return misfit and h['worked|' .. (a.fp or '')] ~= '1' and 'misfit' or 'overload'
end

-- conclude ends a suspicion that no process could dispel: the provider is away for all.
local function conclude()
  local cause = cause_of(h.sus_misfit == '1')
  local why, detail = h.sus_why, h.sus_detail
  if cause == 'misfit' or why == '' then why = h.sus_told end
  a.retry_after = num('sus_after')
  calm_down()
  open(cause, why)
  set('detail', detail)
end

if a.alive == 1 then show() end
