-- tell hands the telling of a pause or a resume to one process at a time.
-- KEYS     see lib.lua
-- ARGV[2]  {told: the flip that was told, or 0 to ask for one; claim (ms); gen, slow (ms), audit_max}
-- Returns  asked: 1 when the caller is to tell the flip in the answer, else 0; told: 1

if a.told > 0 then
  if a.told > num('told') then set('told', a.told) end
  set('tell_until', 0)
  return answer(1)
end
if num('flip') <= num('told') or now < num('tell_until') then return answer(0) end
set('tell_until', now + a.claim)
return answer(1)
