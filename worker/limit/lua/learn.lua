local seen = {}
local function stats(class)
  local c = seen[class]
  if c then return c end
  c = redis.call('HGET', CLASSES, class)
  c = c and unpacked(c) or {
    calls = 0, mean_output = 0, variance_output = 0, mean_input = 0, mean_estimate = 0,
    missed_square = 0, estimate_square = 0, latency = 0,
  }
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
  redis.call('HSET', CLASSES, b.class, packed(c))
end
