-- guard: what is granted and not yet charged, and what is left free for the errors
-- of our own picture.

-- undrawn: output that running calls are still expected to draw: all that is
-- expected of them, less what each has drawn at its class's speed so far. The
-- speed of a class of which no call has ended yet is not known: such calls are
-- counted in running_unknown.
local function undrawn()
  local u = s.running_out - s.drawn_rate * now + s.drawn_before
  return math.max(-s.running_out, math.min(s.running_out, u))
end

-- pending: granted, and not yet charged by the provider.
local function pending(d)
  if d == 1 then return s.ahead[1] elseif d == 2 then return s.ahead[2] end
  return undrawn()
end

-- clip: what is expected to be left, plus what is granted and not yet charged, can
-- never be more than the provider's bucket holds.
local function clip()
  for d = 1, 3 do
    if s.level[d] then s.level[d] = math.min(s.level[d], capacity[d] - pending(d)) end
  end
end

-- guard: what is left in the bucket. v is the variance that the asking call adds.
local function guard(d, v)
  if d == 1 then
    if s.foreign_rate[1] < -0.02 * rate[1] then return math.min(4, 0.4 * capacity[1]) end
    return math.min(2, 0.2 * capacity[1])
  elseif d == 2 then
    return math.min(500 + 4 * math.sqrt(math.max(0, s.variance_in + v)), capacity[2] / 2)
  end
  local sigma, inflow = math.sqrt(math.max(0, s.variance_out + v)), rate[3] * s.mean_latency / 2
  if s.foreign_rate[3] < -0.02 * rate[3] then
    -- Another user draws too. Long calls keep much of a small bucket for what
    -- they are yet to draw: then the provider's level is held at the middle, but
    -- no deeper in debt than what flows in while they draw it.
    local g = 500 + 4 * sigma
    return math.min(g, math.max(capacity[3] / 2 - undrawn(), g - inflow))
  end
  -- The provider lets a call in while anything is left, so what has to be
  -- guarded is its level of now: above ours by what is yet to be drawn, which is
  -- on average what flows in while calls draw it.
  return math.min(100 + 5.5 * sigma, capacity[3] / 2) - math.min(undrawn(), inflow)
end
