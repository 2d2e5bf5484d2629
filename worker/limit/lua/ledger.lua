-- ledger: the reservations, and what time does to them and to the levels.
--
-- A reservation (HELD, BOOKED and, until its send time, AHEAD):
--
--   field         unit      meaning
--   holder        text      who booked it
--   send          at        when the call is sent
--   class         text      see learn.lua
--   estimate      tokens    of the input, as the holder gave it; 0: none
--   input         tokens    expected, and from message_start on what was counted
--   output        tokens    expected
--   speed         tokens/s  expected to be drawn; false: not known, no call of the class has ended
--   variance_in   tokens²   of the input that is expected; 0 once it is known
--   variance_out  tokens²   of the output that is expected

local RECENT = 0.3 -- s in which the output of ended calls fades by 1/e

local in_flight = redis.call('ZCARD', HELD)

local function write(key, b)
  redis.call('HSET', BOOKED, key, packed(b))
end

-- fetch reads a reservation; one whose fields are gone is forgotten.
local function fetch(key)
  local b = redis.call('HGET', BOOKED, key)
  if b then return unpacked(b) end
  redis.call('ZREM', HELD, key)
  redis.call('ZREM', AHEAD, key)
  return nil
end

-- charge: the provider has charged it, or is about to.
local function charge(key, b)
  if s.ahead[1] > 0 and redis.call('ZREM', AHEAD, key) == 1 then
    s.ahead[1], s.ahead[2] = s.ahead[1] - 1, s.ahead[2] - b.input
  end
end

-- nothing_runs: sums over calls under way are exactly 0 when there are none.
local function nothing_runs()
  s.running_out, s.drawn_rate, s.drawn_before, s.running_unknown = 0, 0, 0, 0
  s.variance_out, s.variance_in = 0, 0
end

-- enter begins a reservation.
local function enter(key, b)
  s.running_out = s.running_out + b.output
  s.variance_out, s.variance_in = s.variance_out + b.variance_out, s.variance_in + b.variance_in
  if b.speed then
    s.drawn_rate, s.drawn_before = s.drawn_rate + b.speed, s.drawn_before + b.speed * b.send
  else
    s.running_unknown = s.running_unknown + 1
  end
  write(key, b)
  redis.call('ZADD', HELD, b.send + a.lifetime, key)
  in_flight = in_flight + 1
end

-- drop ends a reservation and leaves its debit: the level stands as expected.
local function drop(key, b)
  charge(key, b)
  s.running_out = s.running_out - b.output
  s.variance_out, s.variance_in = s.variance_out - b.variance_out, s.variance_in - b.variance_in
  if b.speed then
    s.drawn_rate, s.drawn_before = s.drawn_rate - b.speed, s.drawn_before - b.speed * b.send
  else
    s.running_unknown = s.running_unknown - 1
  end
  redis.call('ZREM', HELD, key)
  redis.call('HDEL', BOOKED, key)
  in_flight = in_flight - 1
  if in_flight == 0 then nothing_runs() end
end

-- charge_due: slots whose time has come are charged from now on. The way to the
-- provider is not counted: it delays all calls alike, and for its jitter there is
-- the guard.
local function charge_due()
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', AHEAD, '-inf', now)) do
    local b = fetch(key)
    if b then charge(key, b) end
  end
  if redis.call('ZCARD', AHEAD) == 0 then s.ahead[1], s.ahead[2] = 0, 0 end
end

-- upkeep ends calls that were never settled, and those of holders that are gone.
local function upkeep()
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', HELD, '-inf', now)) do
    local b = fetch(key)
    if b then drop(key, b) end
  end
  if in_flight > 0 and now - s.updated_at > a.lease / 2 then
    -- Nobody, not even a renewal, came through for long: Redis was away, not they.
    for _, h in ipairs(redis.call('ZRANGE', HOLDERS, 0, -1)) do
      redis.call('ZADD', HOLDERS, now + a.lease, h)
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

-- refill lets time fill the buckets.
local function refill()
  local took, full = now - s.updated_at, earned(s.updated_at, now)
  local fade, forget = math.exp(-took / 60), math.exp(-took / 600)
  local level, used, foreign = s.level, s.used, s.foreign_rate
  for d = 1, 3 do
    if rate[d] > 0 then
      if lost and not level[d] then level[d] = guard(d, 0) end
      if level[d] then level[d] = level[d] + full * (rate[d] + foreign[d]) end
    end
    used[d], foreign[d] = used[d] * fade, foreign[d] * forget
  end
  clip()
  s.ended_out = s.ended_out * math.exp(-took / RECENT)
  s.updated_at = now
end

-- catch_up brings the gate to the present. Every script begins with it.
local function catch_up()
  s.soft_pace = math.min(1, s.soft_pace + 0.001 * (now - s.updated_at))
  if in_flight == 0 then nothing_runs() end
  if s.ahead[1] ~= 0 or s.ahead[2] ~= 0 then charge_due() end
  if now - s.updated_at > a.lease / 2 or now - s.upkeep_at >= 0.5 then upkeep() end
  refill()
end
