-- book: a reservation is a place in every dimension, booked at once.

local HORIZON = 60 -- s: no slot is booked behind a line that is longer

-- expect: what a call is expected to use (a need and its variance for each
-- dimension), and the output a second that it is expected to draw, false when no
-- call of its class has ended yet.
local function expect(call, class)
  local max, mean, variance, speed = call.max, class.mean_output, class.variance_output, false
  if class.calls > 0 then speed = mean / class.latency end
  -- Nothing known, or less than what is under way: the calls that end first are
  -- the short ones, so they alone may not lower the expectation.
  if class.calls < 1 or class.calls < in_flight then
    local prior = 512
    if max > 0 then prior = math.min(max / 4, 512) end
    mean = math.max(mean, prior)
  end
  if class.calls < 10 then variance = math.max(variance, mean * mean / 4) end
  if max > 0 then mean = math.min(mean, max) end
  mean = math.max(1, mean)

  local input, miss = call.estimate, 0.1
  if input <= 0 then
    input = class.mean_input
  elseif class.mean_estimate > 0 then
    input = input * class.mean_input / class.mean_estimate
  end
  if class.estimate_square > 0 then
    miss = math.max(0.1, math.min(1, math.sqrt(class.missed_square / class.estimate_square)))
  end
  return {1, input, mean}, {0, (miss * input) ^ 2, variance}, speed
end

-- earliest: the seconds of full allowance until every dimension has room for a
-- need, the dimension that takes longest, and the seconds until the line before
-- it has passed.
local function earliest(need, variance)
  local credit, line, bound_by = 0, 0, 0
  for d = 1, 3 do
    if rate[d] > 0 then
      local free = guard(d, variance[d])
      -- Output is drawn after a call was let in: what it will draw need not be
      -- there yet. A gate that nobody knew takes a second's worth to have come.
      local room = d < 3 and math.min(need[d], capacity[d] - free) or 0
      if not s.level[d] then s.level[d] = math.min(free + (d < 3 and room or rate[3]), capacity[d] - pending(d)) end
      local flow = rate[d] + s.foreign_rate[d]
      local x = (free + room - s.level[d]) / flow
      if x > credit then credit, bound_by = x, d end
      line = math.max(line, (free - s.level[d]) / flow)
    end
  end
  if credit < 1e-6 then credit = 0 end
  return credit, bound_by, line
end

-- debit takes a need off the levels, and remembers what calls need.
local function debit(need)
  for d = 1, 3 do
    if rate[d] > 0 then s.level[d] = s.level[d] - need[d] end
    s.used[d] = s.used[d] + need[d]
    local mean = s.mean_need[d] or need[d]
    s.mean_need[d] = mean + 0.02 * (need[d] - mean)
  end
end

-- give_back ends a reservation that was not used: nothing was charged for it.
local function give_back(key, b)
  local expected = {1, b.input, b.output}
  for d = 1, 3 do
    if s.level[d] then s.level[d] = s.level[d] + expected[d] end
    s.used[d] = math.max(0, s.used[d] - expected[d])
  end
  drop(key, b)
end

-- slack: the seconds after its send time in which a call that is booked now may
-- still be sent; -1: for ever. Until the provider's bucket is full, a late call
-- finds what was left for it. What flows in afterwards is lost there and not
-- here, and calls that are late together would lack it. The guard makes good for few.
local function slack(wait)
  local least = -1
  for d = 1, 2 do
    if rate[d] > 0 then
      local free = guard(d, 0)
      local room = capacity[d] - pending(d) - s.level[d] - wait * rate[d] - free
      local seconds = math.max(free, room) / rate[d]
      if least < 0 or seconds < least then least = seconds end
    end
  end
  return least
end

-- reserve books a slot: 'ok', the wait until its send time and its slack, or why not
-- and when to ask again: 'hold', 'far' (the line is longer than the horizon), 'full'
-- (concurrency). Behind these comes what the wait is for: the number of a dimension, 4 for
-- concurrency, 0 for none or a hold. The same key asked again gets the same slot.
local function reserve(holder, call)
  local old = redis.call('HGET', BOOKED, call.key)
  if old then
    local wait = unpacked(old).send - now
    local late = slack(math.max(0, wait))
    if late >= 0 then late = math.max(0, late + math.min(0, wait)) end
    return 'ok', math.max(0, wait), late, wait > 0 and s.bound_by or 0
  end
  if now < s.hold_until then return 'hold', math.max(0.0005, s.hold_until - now), 0, 0 end
  if a.concurrency > 0 and in_flight >= a.concurrency then return 'full', 0, 0, 4 end

  local class = stats(call.class)
  local need, variance, speed = expect(call, class)
  local credit, bound_by, line = earliest(need, variance)
  local far = delay(line)
  if far > HORIZON then return 'far', math.max(0.5, far - HORIZON + 1), 0, bound_by end

  local wait = delay(credit)
  local send = now + wait
  debit(need)
  local late = slack(wait)
  if class.calls > 0 then
    local mean = s.mean_latency > 0 and s.mean_latency or class.latency
    s.mean_latency = mean + 0.02 * (class.latency - mean)
  end
  if bound_by > 0 then s.bound_by, s.bound_at = bound_by, send end
  if wait > 0 and (rate[1] > 0 or rate[2] > 0) then
    s.ahead[1], s.ahead[2] = s.ahead[1] + 1, s.ahead[2] + need[2]
    redis.call('ZADD', AHEAD, send, call.key)
  end
  enter(call.key, {
    holder = holder, send = send, input = need[2], output = need[3], speed = speed, variance_in = variance[2],
    variance_out = variance[3], estimate = call.estimate, class = call.class,
  })
  return 'ok', wait, late, wait > 0 and bound_by or 0
end
