-- learn: what the calls of a class have used (CLASSES). Means weigh the calls of
-- late more:
--
--   field            unit     meaning
--   calls            number   that have ended
--   mean_output      tokens   mean
--   variance_output  tokens²  of the output
--   mean_input       tokens   mean of what was counted
--   mean_estimate    tokens   mean of what was estimated before
--   missed_square    tokens²  mean square of the estimates' errors, after scaling by the two means
--   estimate_square  tokens²  mean square of the estimates
--   latency          s        mean from send to end

local seen = {} -- class -> what this run of the script knows of it
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
local function learn(b, input, output)
  local c = stats(b.class)
  c.calls = c.calls + 1
  local w = math.max(1 / c.calls, 0.02)
  local d = output - c.mean_output
  c.mean_output = c.mean_output + w * d
  c.variance_output = (1 - w) * (c.variance_output + w * d * d)
  c.latency = c.latency + w * (math.max(0.001, now - b.send) - c.latency)
  c.mean_input = c.mean_input + w * (input - c.mean_input)
  c.mean_estimate = c.mean_estimate + w * (b.estimate - c.mean_estimate)
  if c.mean_estimate > 0 then
    local miss = input - b.estimate * c.mean_input / c.mean_estimate
    c.missed_square = c.missed_square + w * (miss * miss - c.missed_square)
    c.estimate_square = c.estimate_square + w * (b.estimate * b.estimate - c.estimate_square)
  end
  redis.call('HSET', CLASSES, b.class, packed(c))
end
