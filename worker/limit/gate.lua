-- The part that every script of this package begins with: it reads the gate,
-- brings it up to Redis's present, and offers the moves that the scripts make.
--
-- KEYS[1] gate     string the state, packed: every field that `s` has below
-- KEYS[2] held     zset  reservation -> when it is settled unasked, s
-- KEYS[3] booked   hash  reservation -> JSON [holder, send, input, output, speed, variance in, variance out, estimate, class]
-- KEYS[4] classes  hash  class -> JSON [calls, mean output, variance output, mean input,
--                  mean estimate, missed square, estimate square, latency]: what its calls have used
-- KEYS[5] ahead    zset  reservation -> its send time, while that lies ahead, s
-- KEYS[6] waiting  zset  holder -> its place in the line for a concurrency slot
-- KEYS[7] wants    hash  holder -> JSON [key, est, max, class], what it waits with
-- KEYS[8] holders  zset  holder -> end of its lease, s
--
-- ARGV[1] now, s (only tests give it; empty: Redis TIME)    ARGV[2] the caller, a holder
-- ARGV[3] lease of a holder, s      ARGV[4] the epoch that the caller knows, 0 for none
-- ARGV[5..7] configured requests, input, output tokens a minute; 0: no limit
-- ARGV[8] request burst             ARGV[9] concurrency, 0: no limit
-- ARGV[10] 1: limits may rise above the configured ones when the provider says so
-- ARGV[11] channel for messages     ARGV[12] seconds from send to expiry of a reservation
-- ARGV[13...] belong to the script that follows.
--
-- Dimensions: 1 requests, 2 input tokens, 3 output tokens. A level is
-- what the provider's bucket will hold once every granted call is done, so it
-- may be negative. Times are seconds since the epoch began, by Redis's clock;
-- the epoch itself is the microsecond in which it began.

local GATE, HELD, BOOKED, CLASSES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local AHEAD, WAITING, WANTS, HOLDERS = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local me, LEASE, known, CHANNEL = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[11]
local KEEP = tonumber(ARGV[12])
local HORIZON, QUIET, STAIR, RECENT, WAY = 60, 20, 5, 0.3, 0.06

local now = tonumber(ARGV[1])
if not now then
  local c = redis.call('TIME')
  now = tonumber(c[1]) + tonumber(c[2]) / 1e6
end

-- Redis packs the state three times as fast in its own form as in JSON; the
-- embedded Redis knows JSON alone.
local msgpack = rawget(_G, 'cmsgpack')
local s = redis.call('GET', GATE)
if s then s = string.sub(s, 1, 1) == '{' and cjson.decode(s) or msgpack.unpack(s) end

-- Missing state is not a full bucket: the provider may just have been drained.
-- The first call of a new gate passes at once, then the allowance is earned, until
-- the provider says what is left. That is believed at once, but not when state was
-- lost: calls that we do not know of any more are still to be charged. A clock
-- more than a minute behind our last write is a state that cannot be used.
local lost = false
if s then
  local at = now - tonumber(s.epoch) / 1e6
  if s.updated_at - at > 60 then
    s, lost = nil, true
  else
    now = at
  end
end
if not s then
  lost = lost or known ~= '0'
  redis.call('DEL', HELD, BOOKED, CLASSES, AHEAD, WAITING, WANTS, HOLDERS)
  s = {
    epoch = string.format('%.0f', now * 1e6), updated_at = 0, quiet_until = lost and QUIET or 0, upkeep_at = 0,
    hold_until = lost and 1 or 0, hold_reason = lost and 'state lost' or '',
    slow_start = 1, slow_start_at = 0, soft_pace = 1, soft_before_at = -60, soft_last_at = -60,
    configured = {0, 0, 0}, limit = {0, 0, 0}, level = {false, false, false}, ahead = {0, 0},
    foreign_rate = {0, 0, 0}, used = {0, 0, 0}, mean_need = {false, false, false},
    running_out = 0, drawn_rate = 0, drawn_before = 0, variance_out = 0, variance_in = 0,
    running_unknown = 0, ended_out = 0,
    headers_gap = 1, headers_at = 0, last_place = 0, bound_by = 0, bound_at = 0,
  }
  now = 0
elseif known ~= '0' and known ~= s.epoch then
  -- Somebody who could not know that state was lost made this epoch.
  lost = true
  if now < 1 and s.hold_until < 1 then s.hold_until, s.hold_reason = 1, 'state lost' end
  s.quiet_until = QUIET
end
if now < s.updated_at then now = s.updated_at end

-- A changed configuration replaces what was learned of that dimension.
for d = 1, 3 do
  local c = tonumber(ARGV[4 + d])
  if s.configured[d] ~= c then s.configured[d], s.limit[d] = c, c end
end
s.burst, s.concurrency = tonumber(ARGV[8]), tonumber(ARGV[9])

local r, B = {}, {} -- rates a second, capacities; 0: no limit
local function limits()
  for d = 1, 3 do
    r[d], B[d] = s.limit[d] / 60, s.limit[d]
    if r[d] == 0 then s.level[d] = false end
  end
  B[1] = math.min(s.burst, B[1])
end
limits()

-- pace: the slow start (doubling at each stair), times the factor that soft
-- refusals lower and time restores.
s.soft_pace = math.min(1, s.soft_pace + 0.001 * (now - s.updated_at))

local function slow(at)
  if s.slow_start >= 1 then return 1 end
  return math.min(1, s.slow_start * 2 ^ math.max(0, math.floor((at - s.slow_start_at) / STAIR)))
end

-- earned: seconds of full allowance between a and b.
local function earned(a, b)
  if s.slow_start >= 1 then return (b - a) * s.soft_pace end
  local sum, k = 0, math.max(0, math.floor((a - s.slow_start_at) / STAIR))
  while a < b do
    local p = s.slow_start * 2 ^ k
    if p >= 1 then
      sum = sum + (b - a)
      break
    end
    local e = math.min(b, s.slow_start_at + (k + 1) * STAIR)
    if e > a then sum, a = sum + (e - a) * p, e end
    k = k + 1
  end
  return sum * s.soft_pace
end

-- delay: how long from now until that many seconds of full allowance are earned.
local function delay(credit)
  if credit <= 0 then return 0 end
  credit = credit / s.soft_pace
  if s.slow_start >= 1 then return credit end
  local a, k = now, math.max(0, math.floor((now - s.slow_start_at) / STAIR))
  while true do
    local p = s.slow_start * 2 ^ k
    if p >= 1 then return a + credit - now end
    local e = s.slow_start_at + (k + 1) * STAIR
    if e > a then
      if (e - a) * p >= credit then return a + credit / p - now end
      credit, a = credit - (e - a) * p, e
    end
    k = k + 1
  end
end

local inflight = redis.call('ZCARD', HELD)
if inflight == 0 then s.running_out, s.drawn_rate, s.drawn_before, s.variance_out, s.variance_in, s.running_unknown = 0, 0, 0, 0, 0, 0 end

-- undrawn: output that running calls are still expected to draw: all that is
-- expected of them, less what each has drawn at its class's speed so far. The
-- speed of a class of which no call has ended yet is not known: 0, and counted in running_unknown.
local function undrawn()
  local u = s.running_out - s.drawn_rate * now + s.drawn_before
  return math.max(-s.running_out, math.min(s.running_out, u))
end

-- pending: granted, and not yet charged by the provider.
local function pending(d)
  if d == 1 then return s.ahead[1] elseif d == 2 then return s.ahead[2] end
  return undrawn()
end

-- guard: what is left in the bucket for the errors of our own picture of it.
-- v is the variance that the asking call adds.
local function guard(d, v)
  if d == 1 then
    if s.foreign_rate[1] < -0.02 * r[1] then return math.min(4, 0.4 * B[1]) end
    return math.min(2, 0.2 * B[1])
  elseif d == 2 then
    return math.min(500 + 4 * math.sqrt(math.max(0, s.variance_in + v)), B[2] / 2)
  end
  local sigma, inflow = math.sqrt(math.max(0, s.variance_out + v)), r[3] * (s.mean_latency or 0) / 2
  if s.foreign_rate[3] < -0.02 * r[3] then
    -- Another user draws too. Long calls keep much of a small bucket for what
    -- they are yet to draw: then the provider's level is held at the middle, but
    -- no deeper in debt than what flows in while they draw it.
    local g = 500 + 4 * sigma
    return math.min(g, math.max(B[3] / 2 - undrawn(), g - inflow))
  end
  -- The provider lets a call in while anything is left, so what has to be
  -- guarded is its level of now: above ours by what is yet to be drawn, which is
  -- on average what flows in while calls draw it.
  return math.min(100 + 5.5 * sigma, B[3] / 2) - math.min(undrawn(), inflow)
end

local function parse(b)
  b = cjson.decode(b)
  return {
    holder = b[1], send = b[2], input = b[3], output = b[4], speed = b[5], variance_in = b[6], variance_out = b[7],
    estimate = b[8], class = b[9],
  }
end

local function book(key, b)
  redis.call('HSET', BOOKED, key,
    cjson.encode({b.holder, b.send, b.input, b.output, b.speed, b.variance_in, b.variance_out, b.estimate, b.class}))
end

-- fetch reads a reservation; one whose fields are gone is forgotten.
local function fetch(key)
  local b = redis.call('HGET', BOOKED, key)
  if b then return parse(b) end
  redis.call('ZREM', HELD, key)
  redis.call('ZREM', AHEAD, key)
  return nil
end

-- since: what was charged within the last so many seconds. Sends are counted by
-- the calls still under way; ended calls' output by a sum that fades, and the more
-- so the longer ago, when the rate may have been another.
local function since(d, span)
  if d == 3 then return s.ended_out * (math.exp(span / RECENT) - 1) end
  local sum = 0
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', HELD, now - span + KEEP, now + KEEP)) do
    local b = fetch(key)
    if b then sum = sum + (d == 1 and 1 or b.input) end
  end
  return sum
end

local function charged(key, b)
  if redis.call('ZREM', AHEAD, key) == 1 then
    s.ahead[1], s.ahead[2] = s.ahead[1] - 1, s.ahead[2] - b.input
  end
end

-- drop ends a reservation and leaves its debit: the level stands as expected.
local function drop(key, b)
  charged(key, b)
  s.running_out, s.drawn_rate, s.drawn_before = s.running_out - b.output, s.drawn_rate - b.speed, s.drawn_before - b.speed * b.send
  s.variance_out, s.variance_in = s.variance_out - b.variance_out, s.variance_in - b.variance_in
  if b.speed == 0 then s.running_unknown = s.running_unknown - 1 end
  redis.call('ZREM', HELD, key)
  redis.call('HDEL', BOOKED, key)
  inflight = inflight - 1
  if inflight == 0 then s.running_out, s.drawn_rate, s.drawn_before, s.variance_out, s.variance_in, s.running_unknown = 0, 0, 0, 0, 0, 0 end
end

-- Slots whose time has come are charged from now on. The way to the provider is
-- not counted: it delays all calls alike, and for its jitter there is the guard.
if s.ahead[1] ~= 0 or s.ahead[2] ~= 0 then
  local due = redis.call('ZRANGEBYSCORE', AHEAD, '-inf', now)
  for _, key in ipairs(due) do
    local b = fetch(key)
    if b then charged(key, b) end
  end
  if redis.call('ZCARD', AHEAD) == 0 then s.ahead[1], s.ahead[2] = 0, 0 end
end

-- Calls that were never settled, and those of holders that are gone. Often enough.
local function upkeep()
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', HELD, '-inf', now)) do
    local b = fetch(key)
    if b then drop(key, b) end
  end
  if inflight > 0 and now - s.updated_at > LEASE / 2 then
    -- Nobody, not even a renewal, came through for long: Redis was away, not they.
    for _, h in ipairs(redis.call('ZRANGE', HOLDERS, 0, -1)) do
      redis.call('ZADD', HOLDERS, now + LEASE, h)
    end
  else
    local gone = redis.call('ZRANGEBYSCORE', HOLDERS, '-inf', now)
    if #gone > 0 then
      local dead = {}
      for _, h in ipairs(gone) do
        dead[h] = true
        redis.call('ZREM', HOLDERS, h)
        redis.call('ZREM', WAITING, h)
        redis.call('HDEL', WANTS, h)
      end
      for _, key in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
        local b = fetch(key)
        if b and dead[b.holder] then drop(key, b) end
      end
    end
  end
  s.upkeep_at = now
end
if now - s.updated_at > LEASE / 2 or now - s.upkeep_at >= 0.5 then upkeep() end

-- Refill. The clip: what is expected to be left, plus what is granted and not
-- yet charged, can never be more than the provider's bucket holds.
do
  local dt, e = now - s.updated_at, earned(s.updated_at, now)
  local fade, forget, recent = math.exp(-dt / 60), math.exp(-dt / 600), math.exp(-dt / RECENT)
  s.ended_out = (s.ended_out or 0) * recent
  for d = 1, 3 do
    if r[d] > 0 then
      if lost and not s.level[d] then s.level[d] = guard(d, 0) end
      if s.level[d] then
        s.level[d] = math.min(s.level[d] + e * (r[d] + s.foreign_rate[d]), B[d] - pending(d))
      end
    end
    s.used[d], s.foreign_rate[d] = s.used[d] * fade, s.foreign_rate[d] * forget
  end
  s.updated_at = now
end

local function save()
  redis.call('SET', GATE, msgpack and msgpack.pack(s) or cjson.encode(s))
end

local seen = {}
local function stats(class)
  local c = seen[class]
  if c then return c end
  c = {
    calls = 0, mean_output = 0, variance_output = 0, mean_input = 0, mean_estimate = 0,
    missed_square = 0, estimate_square = 0, latency = 0,
  }
  local x = redis.call('HGET', CLASSES, class)
  if x then
    x = cjson.decode(x)
    c = {
      calls = x[1], mean_output = x[2], variance_output = x[3], mean_input = x[4], mean_estimate = x[5],
      missed_square = x[6], estimate_square = x[7], latency = x[8],
    }
  end
  seen[class] = c
  return c
end

-- learn takes what a call used into its class: weight 1/n for the first 50, then 0.02.
local function learn(b, yin, yout)
  local c = stats(b.class)
  c.calls = c.calls + 1
  local w = math.max(1 / c.calls, 0.02)
  local d = yout - c.mean_output
  c.mean_output = c.mean_output + w * d
  c.variance_output = (1 - w) * (c.variance_output + w * d * d)
  c.latency = c.latency + w * (math.max(0.001, now - b.send) - c.latency)
  c.mean_input = c.mean_input + w * (yin - c.mean_input)
  c.mean_estimate = c.mean_estimate + w * (b.estimate - c.mean_estimate)
  if c.mean_estimate > 0 then
    local miss = yin - b.estimate * c.mean_input / c.mean_estimate
    c.missed_square = c.missed_square + w * (miss * miss - c.missed_square)
    c.estimate_square = c.estimate_square + w * (b.estimate * b.estimate - c.estimate_square)
  end
  redis.call('HSET', CLASSES, b.class, cjson.encode({
    c.calls, c.mean_output, c.variance_output, c.mean_input, c.mean_estimate,
    c.missed_square, c.estimate_square, c.latency,
  }))
end

-- ask books a slot: 'ok' and the wait until its send time, or why not and when
-- to ask again: 'hold', 'far' (the line is longer than the horizon), 'full'
-- (concurrency). The same key asked again gets the same slot.
local function ask(holder, key, class, est, max)
  local old = redis.call('HGET', BOOKED, key)
  if old then return 'ok', math.max(0, parse(old).send - now) end
  if now < s.hold_until then return 'hold', math.max(0.0005, s.hold_until - now) end
  if s.concurrency > 0 and inflight >= s.concurrency then return 'full', 0 end

  local c = stats(class)
  local mean, var, lat, speed = c.mean_output, c.variance_output, c.latency, 0
  if c.calls > 0 then speed = mean / lat end
  -- Nothing known, or less than what is under way: the calls that end first are
  -- the short ones, so they alone may not lower the expectation.
  if c.calls < 1 or c.calls < inflight then
    local prior = 512
    if max > 0 then prior = math.min(max / 4, 512) end
    mean = math.max(mean, prior)
  end
  if c.calls < 10 then var = math.max(var, mean * mean / 4) end
  if max > 0 then mean = math.min(mean, max) end
  mean = math.max(1, mean)
  local ein, rel = est, 0.1
  if est <= 0 then
    ein = c.mean_input
  elseif c.mean_estimate > 0 then
    ein = est * c.mean_input / c.mean_estimate
  end
  if c.estimate_square > 0 then rel = math.max(0.1, math.min(1, math.sqrt(c.missed_square / c.estimate_square))) end
  local vin = (rel * ein) ^ 2

  local e, v = {1, ein, mean}, {0, vin, var}
  local credit, line, bind = 0, 0, 0
  for d = 1, 3 do
    if r[d] > 0 then
      local g = guard(d, v[d])
      -- Output is drawn after a call was let in: what it will draw need not be
      -- there yet. A gate that nobody knew takes a second's worth to have come.
      local need = d < 3 and math.min(e[d], B[d] - g) or 0
      if not s.level[d] then s.level[d] = math.min(g + (d < 3 and need or r[3]), B[d] - pending(d)) end
      local rate = r[d] + s.foreign_rate[d]
      local x = (g + need - s.level[d]) / rate
      if x > credit then credit, bind = x, d end
      line = math.max(line, (g - s.level[d]) / rate)
    end
  end
  if credit < 1e-6 then credit = 0 end
  local far = delay(line)
  if far > HORIZON then return 'far', math.max(0.5, far - HORIZON + 1) end

  local wait = delay(credit)
  local send = now + wait
  for d = 1, 3 do
    if r[d] > 0 then s.level[d] = s.level[d] - e[d] end
    s.used[d] = s.used[d] + e[d]
    s.mean_need[d] = (s.mean_need[d] or e[d]) + 0.02 * (e[d] - (s.mean_need[d] or e[d]))
  end
  if c.calls > 0 then s.mean_latency = (s.mean_latency or lat) + 0.02 * (lat - (s.mean_latency or lat)) else s.running_unknown = s.running_unknown + 1 end
  if bind > 0 then s.bound_by, s.bound_at = bind, send end
  if wait > 0 and (r[1] > 0 or r[2] > 0) then
    s.ahead[1], s.ahead[2] = s.ahead[1] + 1, s.ahead[2] + ein
    redis.call('ZADD', AHEAD, send, key)
  end
  s.running_out, s.drawn_rate, s.drawn_before = s.running_out + mean, s.drawn_rate + speed, s.drawn_before + speed * send
  s.variance_out, s.variance_in = s.variance_out + var, s.variance_in + vin
  book(key, {
    holder = holder, send = send, input = ein, output = mean, speed = speed, variance_in = vin, variance_out = var,
    estimate = est, class = class,
  })
  redis.call('ZADD', HELD, send + KEEP, key)
  inflight = inflight + 1
  return 'ok', wait
end

-- queue puts a holder into the line for a concurrency slot, with what it wants.
local function queue(holder, key, class, est, max)
  if not redis.call('ZSCORE', WAITING, holder) then
    s.last_place = s.last_place + 1
    redis.call('ZADD', WAITING, s.last_place, holder)
  end
  redis.call('HSET', WANTS, holder, cjson.encode({key, est, max, class}))
end

-- handover gives what is free to those in line, in order: to the caller in
-- `mine`, to others by message. So a wait for concurrency costs one call.
local mine = {}
local function handover()
  while now >= s.hold_until and (s.concurrency <= 0 or inflight < s.concurrency) do
    local w = redis.call('ZRANGE', WAITING, 0, 0)[1]
    if not w then return end
    local want = redis.call('HGET', WANTS, w)
    redis.call('ZREM', WAITING, w)
    redis.call('HDEL', WANTS, w)
    local lease = redis.call('ZSCORE', HOLDERS, w)
    if want and lease and tonumber(lease) > now then
      want = cjson.decode(want)
      local key = want[1]
      local status, wait = ask(w, key, want[4], want[2], want[3])
      local say = table.concat({status, string.format('%.6f', wait), key}, ' ')
      if w == me then
        mine[#mine + 1] = say
      else
        redis.pcall('PUBLISH', CHANNEL, w .. ' ' .. s.epoch .. ' ' .. say)
      end
    end
  end
end

local function lease()
  redis.call('ZADD', HOLDERS, now + LEASE, me)
end
