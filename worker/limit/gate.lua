-- The part that every script of this package begins with: it reads the gate,
-- brings it up to Redis's present, and offers the moves that the scripts make.
--
-- KEYS[1] gate     hash  the state: every field that `s` has below
-- KEYS[2] held     zset  reservation -> when it is settled unasked, s
-- KEYS[3] booked   hash  reservation -> "holder send ein eout speed vin vout est class"
-- KEYS[4] classes  hash  class -> "n mean var ia ie ir i2 lat": what its calls have used
-- KEYS[5] transit  zset  reservation -> when the provider will have charged its arrival, s
-- KEYS[6] waiting  zset  holder -> its place in the line for a concurrency slot
-- KEYS[7] wants    hash  holder -> "key est max class", what it waits with
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
-- Dimensions: 1 requests, 2 input tokens, 3 output tokens. A level (L1..L3) is
-- what the provider's bucket will hold once every granted call is done, so it
-- may be negative. Times are seconds of Redis's clock.

local GATE, HELD, BOOKED, CLASSES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TRANSIT, WAITING, WANTS, HOLDERS = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local me, LEASE, known, CHANNEL = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[11]
local KEEP = tonumber(ARGV[12])
local HORIZON, QUIET, STAIR = 30, 20, 5
local LV, BIAS, LIM, CFG, USED, MEAN = {'L1', 'L2', 'L3'}, {'b1', 'b2', 'b3'}, {'l1', 'l2', 'l3'},
  {'c1', 'c2', 'c3'}, {'a1', 'a2', 'a3'}, {'m1', 'm2', 'm3'}

local function F(x)
  if type(x) == 'number' then return string.format('%.17g', x) end
  return tostring(x)
end

local now = tonumber(ARGV[1])
if not now then
  local c = redis.call('TIME')
  now = tonumber(c[1]) + tonumber(c[2]) / 1e6
end

local raw, s = {}, {}
do
  local f = redis.call('HGETALL', GATE)
  for i = 1, #f, 2 do
    raw[f[i]] = f[i + 1]
    if f[i] == 'why' then s.why = f[i + 1] else s[f[i]] = tonumber(f[i + 1]) end
  end
end

-- Missing state is not a full bucket: the provider may just have been drained.
-- The first call of a new gate passes at once, then the allowance is earned. A
-- clock more than a minute behind our last write is a state that cannot be used.
local lost = false
if s.epoch and s.t - now > 60 then
  lost = true
  s.epoch = nil
end
if not s.epoch then
  lost = lost or known > 0
  redis.call('DEL', GATE, HELD, BOOKED, CLASSES, TRANSIT, WAITING, WANTS, HOLDERS)
  raw = {}
  s = {
    epoch = math.floor(now * 1e6), born = now, t = now, quiet = now + QUIET,
    hold = lost and now + 1 or 0, why = lost and 'state lost' or '',
    pace = 1, slow = 1, slow_t = now, soft = 1, s1 = 0, s2 = 0,
    U1 = 0, U2 = 0, so = 0, sa = 0, sb = 0, vo = 0, vi = 0,
    b1 = 0, b2 = 0, b3 = 0, a1 = 0, a2 = 0, a3 = 0, og = 1, ot = now, seq = 0, bind = 0, bind_t = 0,
  }
elseif known > 0 and known ~= s.epoch then
  -- Somebody who could not know that state was lost made this epoch.
  lost = true
  if now < s.born + 1 and s.hold < s.born + 1 then s.hold, s.why = s.born + 1, 'state lost' end
end
if now < s.t then now = s.t end

-- A changed configuration replaces what was learned of that dimension.
for d = 1, 3 do
  local c = tonumber(ARGV[4 + d])
  if s[CFG[d]] ~= c then s[CFG[d]], s[LIM[d]] = c, c end
end
s.burst, s.conc = tonumber(ARGV[8]), tonumber(ARGV[9])

local r, B = {}, {} -- rates a second, capacities; 0: no limit
local function limits()
  for d = 1, 3 do
    r[d], B[d] = s[LIM[d]] / 60, s[LIM[d]]
    if r[d] == 0 then s[LV[d]] = nil end
  end
  B[1] = math.min(s.burst, B[1])
end
limits()

-- pace: a fixed factor, times the slow start (doubling at each stair), times
-- the factor that soft refusals lower and time restores.
s.soft = math.min(1, s.soft + 0.0005 * (now - s.t))

local function slow(at)
  if s.slow >= 1 then return 1 end
  return math.min(1, s.slow * 2 ^ math.max(0, math.floor((at - s.slow_t) / STAIR)))
end

-- earned: seconds of full allowance between a and b.
local function earned(a, b)
  local f = s.pace * s.soft
  if s.slow >= 1 then return (b - a) * f end
  local sum, k = 0, math.max(0, math.floor((a - s.slow_t) / STAIR))
  while a < b do
    local p = s.slow * 2 ^ k
    if p >= 1 then
      sum = sum + (b - a)
      break
    end
    local e = math.min(b, s.slow_t + (k + 1) * STAIR)
    if e > a then sum, a = sum + (e - a) * p, e end
    k = k + 1
  end
  return sum * f
end

-- delay: how long from now until that many seconds of full allowance are earned.
local function delay(credit)
  if credit <= 0 then return 0 end
  credit = credit / (s.pace * s.soft)
  if s.slow >= 1 then return credit end
  local a, k = now, math.max(0, math.floor((now - s.slow_t) / STAIR))
  while true do
    local p = s.slow * 2 ^ k
    if p >= 1 then return a + credit - now end
    local e = s.slow_t + (k + 1) * STAIR
    if e > a then
      if (e - a) * p >= credit then return a + credit / p - now end
      credit, a = credit - (e - a) * p, e
    end
    k = k + 1
  end
end

local inflight = redis.call('ZCARD', HELD)
if inflight == 0 then s.so, s.sa, s.sb, s.vo, s.vi = 0, 0, 0, 0, 0 end

-- undrawn: output that running calls are still expected to draw: all that is
-- expected of them, less what each has drawn at its class's speed so far.
local function undrawn()
  local u = s.so - s.sa * (now - s.born) + s.sb
  return math.max(-s.so, math.min(s.so, u))
end

-- pending: granted, and not yet charged by the provider.
local function pending(d)
  if d == 1 then return s.U1 elseif d == 2 then return s.U2 end
  return undrawn()
end

-- guard: what is left in the bucket for the errors of our own picture of it.
-- v is the variance that the asking call adds.
local function guard(d, v)
  if d == 1 then
    if s.b1 < -0.02 * r[1] then return math.min(4, 0.4 * B[1]) end
    return math.min(2, 0.2 * B[1])
  elseif d == 2 then
    return math.min(500 + 4 * math.sqrt(math.max(0, s.vi + v)), B[2] / 2)
  end
  return math.min(500 + 4 * math.sqrt(math.max(0, s.vo + v)), B[3] / 2 - undrawn())
end

local function parse(b)
  local holder, send, ein, eout, speed, vin, vout, est, class =
    string.match(b, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (.*)$')
  return {
    holder = holder, send = tonumber(send), ein = tonumber(ein), eout = tonumber(eout), speed = tonumber(speed),
    vin = tonumber(vin), vout = tonumber(vout), est = tonumber(est), class = class,
  }
end

local function book(key, b)
  redis.call('HSET', BOOKED, key, table.concat({b.holder, F(b.send), F(b.ein), F(b.eout), F(b.speed),
    F(b.vin), F(b.vout), F(b.est), b.class}, ' '))
end

-- fetch reads a reservation; one whose fields are gone is forgotten.
local function fetch(key)
  local b = redis.call('HGET', BOOKED, key)
  if b then return parse(b) end
  redis.call('ZREM', HELD, key)
  redis.call('ZREM', TRANSIT, key)
  return nil
end

local function charged(key, b)
  if redis.call('ZREM', TRANSIT, key) == 1 then
    s.U1, s.U2 = s.U1 - 1, s.U2 - b.ein
  end
end

-- drop ends a reservation and leaves its debit: the level stands as expected.
local function drop(key, b)
  charged(key, b)
  s.so, s.sa, s.sb = s.so - b.eout, s.sa - b.speed, s.sb - b.speed * (b.send - s.born)
  s.vo, s.vi = s.vo - b.vout, s.vi - b.vin
  redis.call('ZREM', HELD, key)
  redis.call('HDEL', BOOKED, key)
  inflight = inflight - 1
  if inflight == 0 then s.so, s.sa, s.sb, s.vo, s.vi = 0, 0, 0, 0, 0 end
end

-- Arrivals that the provider has charged by now.
if s.U1 ~= 0 or s.U2 ~= 0 then
  local due = redis.call('ZRANGEBYSCORE', TRANSIT, '-inf', F(now))
  for _, key in ipairs(due) do
    local b = fetch(key)
    if b then charged(key, b) end
  end
  if redis.call('ZCARD', TRANSIT) == 0 then s.U1, s.U2 = 0, 0 end
end

-- Calls that were never settled, and those of holders that are gone.
for _, key in ipairs(redis.call('ZRANGEBYSCORE', HELD, '-inf', F(now))) do
  local b = fetch(key)
  if b then drop(key, b) end
end
if inflight > 0 and now - s.t > LEASE / 2 then
  -- Nobody, not even a renewal, came through for long: Redis was away, not they.
  for _, h in ipairs(redis.call('ZRANGE', HOLDERS, 0, -1)) do
    redis.call('ZADD', HOLDERS, F(now + LEASE), h)
  end
else
  local gone = redis.call('ZRANGEBYSCORE', HOLDERS, '-inf', F(now))
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

-- Refill. The clip: what is expected to be left, plus what is granted and not
-- yet charged, can never be more than the provider's bucket holds.
do
  local dt, e = now - s.t, earned(s.t, now)
  local fade, forget = math.exp(-dt / 60), math.exp(-dt / 600)
  for d = 1, 3 do
    if r[d] > 0 then
      if lost and not s[LV[d]] then s[LV[d]] = guard(d, 0) end
      if s[LV[d]] then
        s[LV[d]] = math.min(s[LV[d]] + e * (r[d] + s[BIAS[d]]), B[d] - pending(d))
      end
    end
    s[USED[d]], s[BIAS[d]] = s[USED[d]] * fade, s[BIAS[d]] * forget
  end
  s.t = now
end

local function save()
  local set, del = {}, {}
  for k, v in pairs(s) do
    local x = F(v)
    if raw[k] ~= x then
      set[#set + 1] = k
      set[#set + 1] = x
    end
  end
  for k in pairs(raw) do
    if s[k] == nil then del[#del + 1] = k end
  end
  if #set > 0 then redis.call('HSET', GATE, unpack(set)) end
  if #del > 0 then redis.call('HDEL', GATE, unpack(del)) end
end

local seen = {}
local function stats(class)
  local c = seen[class]
  if c then return c end
  c = {n = 0, mean = 0, var = 0, ia = 0, ie = 0, ir = 0, i2 = 0, lat = 0}
  local x = redis.call('HGET', CLASSES, class)
  if x then
    local n, mean, var, ia, ie, ir, i2, lat = string.match(x, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    c = {n = tonumber(n), mean = tonumber(mean), var = tonumber(var), ia = tonumber(ia), ie = tonumber(ie),
      ir = tonumber(ir), i2 = tonumber(i2), lat = tonumber(lat)}
  end
  seen[class] = c
  return c
end

-- learn takes what a call used into its class: weight 1/n for the first 50, then 0.02.
local function learn(b, yin, yout)
  local c = stats(b.class)
  c.n = c.n + 1
  local w = math.max(1 / c.n, 0.02)
  local d = yout - c.mean
  c.mean = c.mean + w * d
  c.var = (1 - w) * (c.var + w * d * d)
  c.lat = c.lat + w * (math.max(0.001, now - b.send) - c.lat)
  c.ia = c.ia + w * (yin - c.ia)
  c.ie = c.ie + w * (b.est - c.ie)
  if c.ie > 0 then
    local miss = yin - b.est * c.ia / c.ie
    c.ir = c.ir + w * (miss * miss - c.ir)
    c.i2 = c.i2 + w * (b.est * b.est - c.i2)
  end
  redis.call('HSET', CLASSES, b.class, table.concat({F(c.n), F(c.mean), F(c.var), F(c.ia), F(c.ie), F(c.ir),
    F(c.i2), F(c.lat)}, ' '))
end

-- ask books a slot: 'ok' and the wait until its send time, or why not and when
-- to ask again: 'hold', 'far' (the line is longer than the horizon), 'full'
-- (concurrency). The same key asked again gets the same slot.
local function ask(holder, key, class, est, max)
  local old = redis.call('HGET', BOOKED, key)
  if old then return 'ok', math.max(0, parse(old).send - now) end
  if now < s.hold then return 'hold', s.hold - now end
  if s.conc > 0 and inflight >= s.conc then return 'full', 0 end

  local c = stats(class)
  local mean, var, lat = c.mean, c.var, c.lat
  if c.n < 1 then
    mean = 512
    if max > 0 then mean = math.min(max / 4, 512) end
    lat = 1 + mean / 50
  end
  if c.n < 10 then var = math.max(var, mean * mean / 4) end
  local speed = mean / lat
  if max > 0 then mean = math.min(mean, max) end
  mean = math.max(1, mean)
  local ein, rel = est, 0.1
  if est <= 0 then
    ein = c.ia
  elseif c.ie > 0 then
    ein = est * c.ia / c.ie
  end
  if c.i2 > 0 then rel = math.max(0.1, math.min(1, math.sqrt(c.ir / c.i2))) end
  local vin = (rel * ein) ^ 2

  local e, v = {1, ein, mean}, {0, vin, var}
  local credit, line, bind = 0, 0, 0
  for d = 1, 3 do
    if r[d] > 0 then
      local g = guard(d, v[d])
      local need = math.min(e[d], B[d] - g)
      if not s[LV[d]] then s[LV[d]] = math.min(g + need, B[d] - pending(d)) end
      local rate = r[d] + s[BIAS[d]]
      local x = (g + need - s[LV[d]]) / rate
      if x > credit then credit, bind = x, d end
      line = math.max(line, (g - s[LV[d]]) / rate)
    end
  end
  if credit < 1e-6 then credit = 0 end
  local far = delay(line)
  if far > HORIZON then return 'far', math.max(0.5, far - HORIZON + 1) end

  local wait = delay(credit)
  local send = now + wait
  for d = 1, 3 do
    if r[d] > 0 then s[LV[d]] = s[LV[d]] - e[d] end
    s[USED[d]] = s[USED[d]] + e[d]
    s[MEAN[d]] = (s[MEAN[d]] or e[d]) + 0.02 * (e[d] - (s[MEAN[d]] or e[d]))
  end
  s.ml = (s.ml or lat) + 0.02 * (lat - (s.ml or lat))
  if bind > 0 then s.bind, s.bind_t = bind, send end
  if r[1] > 0 or r[2] > 0 then
    -- The call is on its way for a moment; short, so that a small bucket is not clipped by it.
    local way = 0.1
    if r[1] > 0 then way = math.min(way, (B[1] - guard(1, 0)) / (4 * r[1])) end
    s.U1, s.U2 = s.U1 + 1, s.U2 + ein
    redis.call('ZADD', TRANSIT, F(send + way), key)
  end
  s.so, s.sa, s.sb = s.so + mean, s.sa + speed, s.sb + speed * (send - s.born)
  s.vo, s.vi = s.vo + var, s.vi + vin
  book(key, {holder = holder, send = send, ein = ein, eout = mean, speed = speed, vin = vin, vout = var,
    est = est, class = class})
  redis.call('ZADD', HELD, F(send + KEEP), key)
  inflight = inflight + 1
  return 'ok', wait
end

-- queue puts a holder into the line for a concurrency slot, with what it wants.
local function queue(holder, key, class, est, max)
  if not redis.call('ZSCORE', WAITING, holder) then
    s.seq = s.seq + 1
    redis.call('ZADD', WAITING, F(s.seq), holder)
  end
  redis.call('HSET', WANTS, holder, table.concat({key, F(est), F(max), class}, ' '))
end

-- handover gives what is free to those in line, in order: to the caller in
-- `mine`, to others by message. So a wait for concurrency costs one call.
local mine = {}
local function handover()
  while now >= s.hold and (s.conc <= 0 or inflight < s.conc) do
    local w = redis.call('ZRANGE', WAITING, 0, 0)[1]
    if not w then return end
    local want = redis.call('HGET', WANTS, w)
    redis.call('ZREM', WAITING, w)
    redis.call('HDEL', WANTS, w)
    local lease = redis.call('ZSCORE', HOLDERS, w)
    if want and lease and tonumber(lease) > now then
      local key, est, max, class = string.match(want, '^(%S+) (%S+) (%S+) (.*)$')
      local status, wait = ask(w, key, class, tonumber(est), tonumber(max))
      local say = table.concat({status, string.format('%.6f', wait), key}, ' ')
      if w == me then
        mine[#mine + 1] = say
      else
        redis.call('PUBLISH', CHANNEL, w .. ' ' .. F(s.epoch) .. ' ' .. say)
      end
    end
  end
end

local function lease()
  redis.call('ZADD', HOLDERS, F(now + LEASE), me)
end
