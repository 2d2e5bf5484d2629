-- reserve books a slot: 'ok' and the wait until its send time, or why not and when
-- to ask again: 'hold', 'far' (the line is longer than the horizon), 'full'
-- (concurrency). The same key asked again gets the same slot.
local function reserve(holder, key, class, est, max)
  local old = redis.call('HGET', BOOKED, key)
  if old then return 'ok', math.max(0, unpacked(old).send - now) end
  if now < s.hold_until then return 'hold', math.max(0.0005, s.hold_until - now) end
  if s.concurrency > 0 and in_flight >= s.concurrency then return 'full', 0 end

  local c = stats(class)
  local mean, var, lat, speed = c.mean_output, c.variance_output, c.latency, 0
  if c.calls > 0 then speed = mean / lat end
  -- Nothing known, or less than what is under way: the calls that end first are
  -- the short ones, so they alone may not lower the expectation.
  if c.calls < 1 or c.calls < in_flight then
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
    if rate[d] > 0 then
      local g = guard(d, v[d])
      -- Output is drawn after a call was let in: what it will draw need not be
      -- there yet. A gate that nobody knew takes a second's worth to have come.
      local need = d < 3 and math.min(e[d], capacity[d] - g) or 0
      if not s.level[d] then s.level[d] = math.min(g + (d < 3 and need or rate[3]), capacity[d] - pending(d)) end
      local flow = rate[d] + s.foreign_rate[d]
      local x = (g + need - s.level[d]) / flow
      if x > credit then credit, bind = x, d end
      line = math.max(line, (g - s.level[d]) / flow)
    end
  end
  if credit < 1e-6 then credit = 0 end
  local far = delay(line)
  if far > HORIZON then return 'far', math.max(0.5, far - HORIZON + 1) end

  local wait = delay(credit)
  local send = now + wait
  for d = 1, 3 do
    if rate[d] > 0 then s.level[d] = s.level[d] - e[d] end
    s.used[d] = s.used[d] + e[d]
    s.mean_need[d] = (s.mean_need[d] or e[d]) + 0.02 * (e[d] - (s.mean_need[d] or e[d]))
  end
  if c.calls > 0 then s.mean_latency = (s.mean_latency or lat) + 0.02 * (lat - (s.mean_latency or lat)) else s.running_unknown = s.running_unknown + 1 end
  if bind > 0 then s.bound_by, s.bound_at = bind, send end
  if wait > 0 and (rate[1] > 0 or rate[2] > 0) then
    s.ahead[1], s.ahead[2] = s.ahead[1] + 1, s.ahead[2] + ein
    redis.call('ZADD', AHEAD, send, key)
  end
  s.running_out, s.drawn_rate, s.drawn_before = s.running_out + mean, s.drawn_rate + speed, s.drawn_before + speed * send
  s.variance_out, s.variance_in = s.variance_out + var, s.variance_in + vin
  write(key, {
    holder = holder, send = send, input = ein, output = mean, speed = speed, variance_in = vin, variance_out = var,
    estimate = est, class = class,
  })
  redis.call('ZADD', HELD, send + LIFETIME, key)
  in_flight = in_flight + 1
  return 'ok', wait
end
