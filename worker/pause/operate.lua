-- operate carries out an operator's word. It touches the breaker only to make it
-- probe at once when an operator resumes.
-- KEYS     see lib.lua
-- ARGV[2]  {verb: 'pause' or 'resume'; by, reason; gen, slow (ms), audit_max}
-- Returns  1 when anything changed, else 0

if a.verb == 'pause' then
  if h.op ~= '1' then set('op_at', now) end
  set('op', 1)
  set('op_by', a.by)
  set('op_why', a.reason)
  if not next(dirty) then return answer(0) end
  moved()
  note('pause', a.by, a.reason)
  return answer(1)
end

if h.op ~= '1' and state() == 'closed' then return answer(0) end
set('op', 0)
set('op_by', '')
set('op_why', '')
if state() ~= 'closed' then
  set('next', now)
  set('probe_fp', '')
end
moved()
note('resume', a.by, '')
return answer(1)
