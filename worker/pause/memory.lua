-- memory holds the pool while Redis is nearly full, or lets go of it.
-- KEYS     see lib.lua
-- ARGV[2]  {on: 1 or 0; gen, slow (ms), audit_max}
-- Returns  1 when that is new, else 0

if (h.mem == '1') == (a.on == 1) then return answer(0) end
set('mem', a.on)
moved()
return answer(1)
