-- settle: replaces a reservation's expectation by what was used, then lets the
-- provider's headers correct the picture.
-- KEYS     see state.lua
-- ARGV[2]  key: of the reservation; booked_in: its epoch; how: 'used' (input and output
--          known), 'expected' (not known), 'input' (input known, the call goes on),
--          'back' (never charged); input, output: tokens; follow: limits may rise above
--          the configured ones when the provider says so; headers, if there were any:
--          {limits: list, a minute, 0: not said; remaining: list, -1: not said;
--          rounding: step of the remaining tokens; age: s}
-- Message to all, where an input was far below what was expected: "* epoch free 0"
-- Returns  {epoch, 1 or 0 (was there such a reservation), in flight, the levels of the
--          three dimensions in thousandths, '' where there is none, their limits a minute,
--          0 where there is none, then what was handed over to the caller: "status wait key", ...}

spare()
local ASK_ANEW = 1 -- s of input, by which a wait has to become shorter
local WAY = 0.06 -- s, of a call to the provider and back: what was charged then is not in its headers

-- settled replaces what was expected of a reservation, and returns the output
-- that is known of it since now.
local function settled(key, b)
  local expected, used = {1, b.input, b.output}, {1, a.input, a.output}
  if a.how == 'back' then
    give_back(key, b)
    return 0
  elseif a.how == 'expected' then
    used = expected
  elseif a.how == 'input' then
    used[3] = b.output
  end
  for d = 1, 3 do
    if s.level[d] then s.level[d] = s.level[d] + expected[d] - used[d] end
    s.used[d] = math.max(0, s.used[d] + used[d] - expected[d])
  end
  -- Whoever waits by a figure that was never true asks anew. A slot that is handed
  -- back says nothing: those who ask anew hand theirs back.
  if a.how ~= 'back' and rate[2] > 0 and expected[2] - used[2] > rate[2] * ASK_ANEW and s.ahead[1] > 0 and now >= s.hold_until then
    redis.pcall('PUBLISH', a.channel, '* ' .. s.epoch .. ' free 0')
  end
  if a.how == 'input' then
    charge(key, b)
    s.variance_in = s.variance_in - b.variance_in
    b.input, b.variance_in = a.input, 0
    write(key, b)
    return 0
  end
  drop(key, b)
  if a.how ~= 'used' then return 0 end
  learn(b, a.input, a.output)
  s.ended_out = s.ended_out + a.output
  return a.output
end

-- take_over: a limit counts when it is said; upwards only after the quiet period,
-- and not above the configured one unless that is allowed.
local function take_over(d, limit, remaining)
  if s.configured[d] > 0 and not a.follow then limit = math.min(limit, s.configured[d]) end
  local have = s.limit[d]
  if have == 0 or limit < have or (limit > have and now >= s.quiet_until) then
    set_limit(d, limit)
    if have == 0 and remaining >= 0 then s.level[d] = math.min(remaining, capacity[d]) - pending(d) end
  end
end

-- charged_since: what was charged within the last so many seconds. Sends are
-- counted by the calls still under way; ended calls' output by a sum that fades, and
-- the more so the longer ago, when the rate may have been another.
local function charged_since(d, span)
  if d == 3 then return s.ended_out * (math.exp(span / RECENT) - 1) end
  local sum = 0
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', HELD, now - span + a.lifetime, now + a.lifetime)) do
    local b = fetch(key)
    if b then sum = sum + (d == 1 and 1 or b.input) end
  end
  return sum
end

-- correction: how much higher the level should be, by what the provider says
-- remains. ended is the output of the call that ends now.
local function correction(d, remaining, ended)
  local band = d > 1 and a.headers.rounding / 2 or 2
  -- An input that was estimated wrongly shows here now and is settled later.
  if d == 2 then band = band + 2 * math.sqrt(math.max(0, s.variance_in)) end
  -- Downwards: what is under way has drawn as much as we think, so what it
  -- varies by is no sign. While that is not known: all that is left when
  -- everything is done cannot be more than what is left now.
  local down = remaining - s.level[d] + band
  if d < 3 or s.running_unknown == 0 then down = down - pending(d) end
  if d == 3 then down = down + 2 * math.sqrt(math.max(0, s.variance_out)) end
  if down < 0 then return 0.5 * down end
  -- Upwards only by what is certain: of what is under way nothing is drawn
  -- yet, and what was charged since the headers were written is not in them.
  local up = remaining - s.level[d] - (d == 3 and s.running_out + ended or pending(d)) - band
  if up <= 0 or now < s.quiet_until then return 0 end
  return 0.1 * math.max(0, up - charged_since(d, a.headers.age + (d == 2 and 2 * WAY or WAY)))
end

-- observe lets the headers correct limits and levels.
local function observe(ended)
  local told = false
  for d = 1, 3 do
    local limit, remaining = a.headers.limits[d], a.headers.remaining[d]
    if limit > 0 then take_over(d, limit, remaining) end
    -- More requests than our bucket holds: a count over a longer window, which
    -- says nothing of the short one.
    if remaining >= 0 and rate[d] > 0 and s.level[d] and not (d == 1 and remaining > capacity[1]) then
      told = true
      local by = correction(d, remaining, ended)
      s.level[d] = s.level[d] + by
      -- The integral: a level that has to be lowered again and again has another
      -- user, whose rate is what the corrections amount to a second.
      s.foreign_rate[d] = math.max(-0.5 * rate[d], math.min(0, s.foreign_rate[d] + 0.01 * by / s.headers_gap))
    end
  end
  if told then
    s.headers_gap = math.max(0.01, s.headers_gap + 0.05 * (math.min(now - s.headers_at, 60) - s.headers_gap))
    s.headers_at = now
  end
end

catch_up()
local booked = a.booked_in == s.epoch and redis.call('HGET', BOOKED, a.key)
local ended = booked and settled(a.key, unpacked(booked)) or 0
if a.headers then observe(ended) end
clip()
hand_over()
save()

local reply = {s.epoch, booked and 1 or 0, in_flight}
for d = 1, 3 do reply[3 + d] = s.level[d] and math.floor(s.level[d] * 1000 + 0.5) or '' end
for d = 1, 3 do reply[6 + d] = s.limit[d] end
for _, h in ipairs(handed) do reply[#reply + 1] = h end
return reply
