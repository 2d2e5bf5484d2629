-- pace: the slow start (doubling at each stair), times the factor that soft
-- refusals lower and time restores.

local STAIR = 5 -- s, of a slow start

local function start_share(at)
  if s.slow_start >= 1 then return 1 end
  return math.min(1, s.slow_start * 2 ^ math.max(0, math.floor((at - s.slow_start_at) / STAIR)))
end

-- earned: seconds of full allowance between two times.
local function earned(from, to)
  if s.slow_start >= 1 then return (to - from) * s.soft_pace end
  local sum, k = 0, math.max(0, math.floor((from - s.slow_start_at) / STAIR))
  while from < to do
    local share = s.slow_start * 2 ^ k
    if share >= 1 then
      sum = sum + (to - from)
      break
    end
    local stair_end = math.min(to, s.slow_start_at + (k + 1) * STAIR)
    if stair_end > from then sum, from = sum + (stair_end - from) * share, stair_end end
    k = k + 1
  end
  return sum * s.soft_pace
end

-- delay: how long from now until that many seconds of full allowance are earned.
local function delay(credit)
  if credit <= 0 then return 0 end
  credit = credit / s.soft_pace
  if s.slow_start >= 1 then return credit end
  local from, k = now, math.max(0, math.floor((now - s.slow_start_at) / STAIR))
  while true do
    local share = s.slow_start * 2 ^ k
    if share >= 1 then return from + credit - now end
    local stair_end = s.slow_start_at + (k + 1) * STAIR
    if stair_end > from then
      if (stair_end - from) * share >= credit then return from + credit / share - now end
      credit, from = credit - (stair_end - from) * share, stair_end
    end
    k = k + 1
  end
end
