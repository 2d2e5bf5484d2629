-- steer: holds and paces the whole gate.
-- KEYS     see state.lua
-- ARGV[2]  verb: 'hold' (never shortens a longer one), 'ramp' (a hold that is followed by
--          a slow start), 'resume' (the hold ends, slow start), 'soft' (a short refusal);
--          seconds: of a hold; reason: for it; pace: share at which a slow start begins
-- Returns  {epoch, µs that the hold still lasts}
-- Messages to all: "* epoch hold wait" and "* epoch free 0"

spare()
local RAMP = 0.1 -- of the allowance, after a refusal for a rise of use

local function hold(seconds, reason)
  if now + seconds > s.hold_until then
    s.hold_until, s.hold_reason = now + seconds, reason
    if s.ramped and s.slow_start_at > now then s.slow_start_at = s.hold_until end -- the slow start waits for the end
    redis.pcall('PUBLISH', a.channel, string.format('* %s hold %.0f', s.epoch, micros(seconds)))
  end
end

catch_up()
if a.verb == 'hold' then
  hold(a.seconds, a.reason)
elseif a.verb == 'ramp' then
  -- It stands from now on, so that it needs nobody who lives until the hold ends.
  hold(a.seconds, a.reason)
  s.ramped, s.slow_start, s.slow_start_at = true, RAMP, s.hold_until
elseif a.verb == 'resume' then
  -- Whoever resumes, and however often, does not cut a ramp's slow start short.
  local pace = a.pace
  if s.ramped then
    if start_share(now) < 1 then pace = math.min(pace, start_share(now)) else s.ramped = false end
  end
  s.hold_until, s.hold_reason = 0, ''
  s.slow_start, s.slow_start_at, s.soft_pace = pace, now, 1
  redis.pcall('PUBLISH', a.channel, '* ' .. s.epoch .. ' free 0')
elseif a.verb == 'soft' then
  if s.level[1] then s.level[1] = s.level[1] - 1 end
  -- Calls that were delayed together are refused together: one burst slows once.
  if now - s.soft_cut_at >= 1 then s.soft_pace, s.soft_cut_at = math.max(0.1, s.soft_pace * 0.97), now end
  if now - s.soft_before_at <= 5 then hold(1, 'refused three times in 5 s') end
  s.soft_before_at, s.soft_last_at = s.soft_last_at, now
end
hand_over()
save()
return {s.epoch, micros(math.max(0, s.hold_until - now))}
