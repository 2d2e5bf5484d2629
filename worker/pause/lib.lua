-- The rules that the scripts of this folder share; script.go puts it before each.
--
-- KEYS[1]  hash: the pool's breaker, its operator's flag, and what was made of them
-- KEYS[2]  list: what operators did, newest first
-- KEYS[3]  hash: what was seen of late, by model and by process; see suspicion.lua
-- ARGV[1]  now in ms, or '' for Redis TIME; only tests give one
-- ARGV[2]  JSON: the arguments, read as a
-- Returns  {result, now, field, value, field, value ...}: a number that each
--          script explains, the time in ms, and the hash as it stands afterwards

local a = cjson.decode(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local max_backoff = 120000 -- between two probes of an outage
local steady = 60000       -- an outage that begins sooner after the last one is its relapse
local good_probes = 3      -- to close
local row_old = 5000       -- after this time without a success, row_few failures in a row are enough
local row_few = 5
local row_many = 8         -- enough when they span row_span
local row_span = 500
local buckets = 10
local outages_kept = 20

-- What a script may write is looked at before it writes: a key of another type, or what
-- Redis does not permit, is refused while nothing has moved.
redis.call('LLEN', KEYS[2])
redis.call('HLEN', KEYS[3])
redis.call('EXISTS', KEYS[3])

local h = {}
do
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do h[flat[i]] = flat[i + 1] end
end

-- When an operator's pause ends by itself counts only beside the words that it was said
-- with: release 0.1.0 pauses and resumes without touching it.
local function words() return redis.sha1hex((h.op_at or '') .. '|' .. (h.op_by or '') .. '|' .. (h.op_why or '')) end
if h.op_until and (h.op ~= '1' or h.op_words ~= words()) then h.op_until = nil end

local function num(f) return tonumber(h[f]) or 0 end
local function state() return h.state or 'closed' end
-- The queue is to be paused: the operator, the breaker and Redis's memory each have a say.
local function wanted() return h.op == '1' or h.mem == '1' or state() ~= 'closed' end
local was = wanted()

local dirty = {}
local function set(f, v)
  -- Lua would write a large number as 1.7e+12.
  if type(v) == 'number' then v = string.format('%.0f', v) end
  if h[f] ~= v then
    h[f] = v
    dirty[f] = true
  end
end

-- An outage heals by itself, and is probed all the time.
local function outage(cause) return cause == 'overload' or cause == 'misfit' end

-- ends sets when an operator's pause ends by itself, 0 for never.
local function ends(at)
  if at == num('op_until') and (at == 0 or h.op_words == words()) then return end
  set('op_until', at)
  set('op_words', words())
end

-- moved counts a transition, so that whoever decided by an older state can tell.
local function moved() set('rev', num('rev') + 1) end

-- spare lets a script write in a full Redis too: one that has begun to is not stopped.
-- The key is never there.
local function spare() redis.call('DEL', KEYS[1] .. ':spare') end

local function note(action, by, why, ends_at)
  spare()
  redis.call('LPUSH', KEYS[2], cjson.encode({
    at = string.format('%.0f', now), action = action, by = by, reason = why, op = a.op,
    ends = (ends_at or 0) > 0 and string.format('%.0f', ends_at) or nil}))
  redis.call('LTRIM', KEYS[2], 0, a.audit_max - 1)
end

-- answer writes what changed and ends a script.
local function answer(result)
  if wanted() ~= was then
    set('flip_at', now)
    if was then
      -- A breaker that closed under an operator's pause still owes its slow start.
      if h.ramp == '1' then set('ramp_at', now) else set('ramp_at', 0) end
      set('ramp', 0)
    else
      set('held', 1)
      -- An operator who pauses during a slow start does not end it.
      if state() == 'closed' and num('ramp_at') > 0 and now - num('ramp_at') < a.slow then
        set('ramp', 1)
      end
    end
  end
  if next(dirty) then
    if not h.gen then set('gen', a.gen) end
    spare()
    local flat = {}
    for f in pairs(dirty) do
      flat[#flat + 1] = f
      flat[#flat + 1] = h[f]
    end
    redis.call('HSET', KEYS[1], unpack(flat))
  end
  local out = {result, string.format('%.0f', now)}
  for f, v in pairs(h) do
    out[#out + 1] = f
    out[#out + 1] = v
  end
  return out
end

local function forget_counts()
  for i = 0, buckets - 1 do set('b' .. i, '') end
  set('row', 0)
  set('row_from', 0)
  set('row_at', 0)
  -- Calls sent before now say nothing about what follows.
  set('counts_from', now)
end

-- delay until the next probe, in ms: the interval with equal jitter, doubled
-- for each relapse after the first. Failed probes alone do not lengthen it, or a
-- provider that is back would go unnoticed. The first probe comes sooner, so that
-- a false alarm is over within one interval.
local function delay(first)
  local relapse = num('relapse')
  local base = math.min(a.interval * 2 ^ math.max(0, relapse - 1), max_backoff)
  if first and relapse == 0 then base = base / 2 end
  return base * (0.5 + 0.5 * a.rnd)
end

-- A stated Retry-After is waited out, with up to a tenth on top.
local function wait(ms)
  if a.retry_after > 0 then ms = math.max(ms, a.retry_after * (1 + 0.1 * a.rnd)) end
  return math.min(ms, max_backoff)
end

-- later is how long a refused key or a spend cap waits for its next probe, in ms.
local function later()
  if a.recheck > 0 then return a.recheck * (0.5 + 0.5 * a.rnd) end
  return 300000 + 600000 * a.rnd
end

-- plan sets when the next probe is due; from is when the last one began.
local function plan(cause, from, first)
  set('resume_at', 0)
  if not outage(cause) then
    -- A spend cap at its stated end; else, and for a refused key, now and then. With a recheck
    -- a stated end is not waited for, since whoever raises the cap does not say so.
    local at = cause == 'spend' and a.resume_at or 0
    local stated = at > now
    if not stated and a.retry_after > 0 then at = now + a.retry_after end
    if at > now then
      at = math.min(at, now + 32 * 86400000)
      set('resume_at', at)
      at = at + 1000 * a.rnd
      if stated and a.recheck > 0 then at = math.min(at, now + math.max(later(), wait(0))) end
      set('next', at)
    else
      set('next', now + later())
    end
  else
    set('next', math.max(now, from + wait(delay(first))))
  end
end

-- lasted notes how long an outage was that is over: outages has the lengths in ms of the
-- last of them, the newest first.
local function lasted()
  if not outage(h.cause) or num('opened_at') == 0 then return end
  local lengths = string.format('%.0f', math.max(0, now - num('opened_at')))
  local kept = 1
  for length in string.gmatch(h.outages or '', '%d+') do
    if kept < outages_kept then lengths, kept = lengths .. ' ' .. length, kept + 1 end
  end
  set('outages', lengths)
end

-- close lets calls flow again, slowly.
local function close()
  lasted()
  set('state', 'closed')
  set('cause', '')
  set('why', '')
  set('tries', 0)
  set('next', 0)
  set('resume_at', 0)
  set('probe_fp', '')
  set('lease', '')
  set('lease_until', 0)
  set('ramp', 1)
  set('sus', '')
  set('detail', '')
  forget_counts()
end

-- open trips the breaker, or gives an open one a graver cause.
local function open(cause, why)
  local first = state() == 'closed'
  if first then
    local ramp_at = num('ramp_at')
    if ramp_at > 0 and now - ramp_at < steady then
      set('relapse', num('relapse') + 1)
    else
      set('relapse', 0)
    end
    set('tries', 0)
    set('opened_at', now)
  elseif state() == 'half_open' then
    set('relapse', num('relapse') + 1)
  end
  set('state', 'open')
  set('cause', cause)
  set('why', why)
  set('good', 0)
  set('ramp', 0)
  -- A probe in flight has been overtaken.
  set('fence', num('fence') + 1)
  set('lease', '')
  set('lease_until', 0)
  set('probe_fp', '')
  set('sus', '')
  set('detail', '')
  if cause ~= 'overload' then set('bad_fp', a.fp) end
  forget_counts()
  plan(cause, now, first)
  moved()
end
