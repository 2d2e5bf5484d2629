-- lapse ends an operator's pause whose time is over, as that operator would: the breaker
-- stays as it is, and one that is open for an outage probes the provider at once.
-- KEYS     see lib.lua
-- ARGV[2]  {gen, slow (ms), audit_max}
-- Returns  1 when it ended the pause; 0 when there is none whose time is over

if h.op ~= '1' or num('op_until') == 0 or now < num('op_until') then return answer(0) end
local by = h.op_by
set('op', 0)
set('op_by', '')
set('op_why', '')
ends(0)
if state() ~= 'closed' and outage(h.cause) then
  set('next', now)
  set('probe_fp', '')
end
moved()
note('resume', by, 'the time of the pause is over')
return answer(1)
