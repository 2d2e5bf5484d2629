-- adopt takes a pause of the queue that is not ours for an operator's: somebody
-- used another tool, and the breaker must never undo that.
-- KEYS     see lib.lua
-- ARGV[2]  {rev: that the caller saw; by, reason; grace (ms); gen, slow (ms), audit_max}
-- Returns  1 when adopted; 0 when the state has moved, the pause is ours, or it may be
--          a late one of ours, whose maker is about to undo it

if a.rev ~= num('rev') or h.own == '1' then return answer(0) end
if not wanted() and now - num('own_end') < a.grace then return answer(0) end
set('own', 1)
if h.op ~= '1' then
  set('op', 1)
  set('op_at', now)
  set('op_by', a.by)
  set('op_why', a.reason)
  note('pause', a.by, a.reason)
end
moved()
return answer(1)
