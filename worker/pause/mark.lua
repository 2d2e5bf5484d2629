-- mark notes what was made of the state, unless the state has moved since.
-- KEYS     see lib.lua
-- ARGV[2]  {rev: that the caller acted on; field: 'own' (a pause of the queue is ours),
--           'held' (the gate is not yet let go), each with value 0 or 1, or 'trial' (half open,
--           the gate was let go to a tenth) with value rev; gen, slow (ms), audit_max}
-- Returns  1, or 0 when the state has moved

if a.rev ~= num('rev') then return answer(0) end
if a.field == 'own' and a.value == 0 then set('own_end', now) end
if a.field == 'trial' then set('trial_at', now) end
set(a.field, a.value)
return answer(1)
