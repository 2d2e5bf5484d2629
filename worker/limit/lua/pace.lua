-- pace: the slow start (doubling at each stair), times the factor that soft
-- refusals lower and time restores.
local function start_share(at)
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
