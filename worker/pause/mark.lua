-- mark notes what was made of the state, unless the state has moved since.
-- KEYS     see lib.lua
-- ARGV[2]  {rev: that the caller acted on; field: 'own' (a pause of the queue is ours) or
--           'held' (the gate is not yet let go); value: 0 or 1; gen, slow (ms), audit_max}
-- Returns  1, or 0 when the state has moved

if a.rev ~= num('rev') then return answer(0) end
if a.field == 'own' and a.value == 0 then set('own_end', now) end
set(a.field, a.value)
return answer(1)
