-- ask tells a process whether it is the one to look into a suspicion now, and ends
-- one that nobody looks into any more.
-- KEYS     see lib.lua
-- ARGV[2]  {lease (ms), fp, holder, alive, retry_after: 0; interval, recheck (ms), rnd, gen, slow (ms), audit_max}
-- Returns  the lease's fencing number; 0 when it is not; -1 when the breaker opened, for no
--          other process has given its opinion

if (h.sus or '') == '' then return answer(0) end
local bad = table_of('sus_bad')
if now - num('sus_at') > patience and num('sus_until') <= now then
  if next(bad) then
    conclude()
    return answer(-1)
  elseif now - num('sus_at') > 4 * patience then
    calm_down()
    return answer(0)
  end
end
if bad[a.holder] or num('sus_until') > now then return answer(0) end
if not next(bad) and h.sus_by ~= a.holder and now - num('sus_at') < first_word then return answer(0) end
set('sus_fence', num('sus_fence') + 1)
set('sus_until', now + a.lease)
return answer(num('sus_fence'))
