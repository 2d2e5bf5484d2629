-- arrive tells that a process runs with a certain key. One that a spend cap or a
-- refusal has not been seen with is worth one probe, by its own holder.
-- KEYS     see lib.lua
-- ARGV[2]  {fp, gen, slow (ms), audit_max}
-- Returns  1 when a probe was asked for, else 0

if state() == 'closed' or h.cause == 'overload' or h.bad_fp == a.fp then return answer(0) end
set('probe_fp', a.fp)
set('next', now)
return answer(1)
