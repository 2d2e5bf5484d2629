-- opinion takes in what a process found that looked into a suspicion.
-- KEYS     see lib.lua
-- ARGV[2]  {fence: of the lease; kind: 'good' (the model answers), 'alone' (it does not, and another
--           does), 'bad' (none does), 'spend', 'unauthorized', or 'ignore' when nothing could be
--           found out; misfit: 1 when the address does not fit; reason, detail, retry_after (ms),
--           resume_at (ms), fp, holder, alive, interval, recheck (ms), rnd, gen, slow (ms), audit_max}
-- Returns  0 the lease was lost, 1 nothing stands against the pool, 2 another process is asked as
--          well, 3 the model is held back, 4 the breaker opened

if a.fence ~= num('sus_fence') or (h.sus or '') == '' then return answer(0) end
set('sus_until', 0)
local model = h.sus

if a.kind == 'ignore' then return answer(1) end

if a.kind == 'good' then
  forgive(model)
  calm_down()
  return answer(1)
end

if a.kind == 'spend' or a.kind == 'unauthorized' then
  calm_down()
  open(a.kind, a.reason)
  return answer(4)
end

if a.kind == 'alone' then
  forgive(model)
  calm_down()
  sicken(model, a.reason)
  return answer(3)
end

local bad = table_of('sus_bad')
if not next(bad) then
  set('sus_told', a.reason)
  set('sus_detail', a.detail or '')
  set('sus_misfit', a.misfit or 0)
  set('sus_after', a.retry_after)
end
bad[a.holder] = 1
keep('sus_bad', bad)
local _, unasked = others()
if unasked > 0 and now - num('sus_at') < patience then return answer(2) end
conclude()
return answer(4)
