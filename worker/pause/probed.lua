-- probed takes the result of a probe and moves the breaker.
-- KEYS     see lib.lua
-- ARGV[2]  {fence: of the lease; kind: 'good', 'bad', 'spend', 'unauthorized', 'ignore' or
--           'abandoned' (the prober was told to stop); misfit: 1 when the address does not fit;
--           reason, detail, retry_after (ms), resume_at (ms), fp, interval, recheck (ms), rnd, gen, slow (ms), audit_max}
-- Returns  0 the lease was lost, 1 nothing moved, 2 half open, 3 closed, 4 open again or
--          for a graver cause

if a.fence ~= num('fence') or state() == 'closed' then return answer(0) end
set('lease', '')
set('lease_until', 0)

if a.kind == 'abandoned' then
  set('next', now)
  return answer(1)
end

if a.kind == 'good' then
  set('good', num('good') + 1)
  if num('good') >= good_probes then
    close()
    moved()
    return answer(3)
  end
  set('next', now)
  if state() == 'half_open' then return answer(1) end
  set('state', 'half_open')
  forget_counts()
  moved()
  return answer(2)
end

if a.kind == 'ignore' then
  if not outage(h.cause) then
    plan(h.cause, now, false)
    return answer(1)
  end
  set('next', math.max(now, num('probe_at') + wait(delay(false))))
  return answer(1)
end

set('tries', num('tries') + 1)
if a.kind == 'bad' then
  if state() == 'half_open' then
    open(cause_of(a.misfit == 1), a.reason)
    set('detail', a.detail or '')
    return answer(4)
  end
  if outage(h.cause) then
    -- What the calls before the outage met may not be what is wrong now.
    local cause = cause_of(a.misfit == 1)
    if cause == 'misfit' or h.cause == 'misfit' then set('why', a.reason) end
    if cause == 'misfit' then set('bad_fp', a.fp) end
    set('cause', cause)
    set('detail', a.detail or '')
    set('probe_fp', '')
    plan(h.cause, num('probe_at'), false)
    return answer(1)
  end
  -- The provider is ill as well. Its word on the spend cap or the key is still
  -- awaited, at growing intervals.
  local base = math.min(a.interval * 2 ^ num('tries'), a.recheck > 0 and a.recheck or max_backoff)
  set('next', now + wait(base * (0.5 + 0.5 * a.rnd)))
  return answer(1)
end

if state() == 'open' and h.cause == a.kind then
  set('bad_fp', a.fp)
  set('probe_fp', '')
  plan(a.kind, now, false)
  return answer(1)
end
open(a.kind, a.reason)
return answer(4)
