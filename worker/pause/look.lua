-- look reads the state and changes nothing.
-- KEYS     see lib.lua
-- ARGV[2]  {gen, slow (ms), audit_max}
-- Returns  0
return answer(0)
