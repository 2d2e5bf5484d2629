-- model asks whether a model that is held back is to be tried, tells how that went, or
-- holds one back.
-- KEYS     see lib.lua
-- ARGV[2]  {model; verb: 'try', 'well' or 'bad'; reason; lease, wait (ms), holder, alive, fp, interval, recheck (ms),
--           rnd, gen, slow (ms), audit_max}
-- Returns  1 when the caller is to try it, or it is held back no longer; else 0

local sick = table_of('sick')
local one = sick[a.model]
if a.verb == 'bad' then
  sicken(a.model, a.reason)
  return answer(0)
end
if not one then return answer(a.verb == 'well' and 1 or 0) end
if a.verb == 'well' then
  sick[a.model] = nil
  redis.call('HDEL', KEYS[3], 'm|' .. a.model)
else
  if one.next > now then return answer(0) end
  one.asked, one.next = now, now + a.lease
end
keep('sick', sick)
return answer(1)
