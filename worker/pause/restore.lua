-- restore puts back what must outlive a loss of the state: an operator's pause, and
-- that a pause of the queue or a hold of the gate is ours. Breaker and counts start
-- anew; a provider that is
-- still down trips it again within a few calls.
-- KEYS     see lib.lua
-- ARGV[2]  {was_gen, was_rev, was_fence: of the state remembered; op, op_by, op_why, op_at, op_until (ms), own, held: of it;
--           gen, slow (ms), audit_max}
-- Returns  1 when restored; 0 when nothing was lost, or another process was first

if h.gen == a.was_gen and num('rev') >= a.was_rev then return answer(0) end
set('gen', a.was_gen)
set('rev', math.max(num('rev'), a.was_rev))
set('fence', math.max(num('fence'), a.was_fence))
if a.own == 1 then set('own', 1) end
if a.held == 1 then set('held', 1) end
if a.op == 1 and h.op ~= '1' then
  set('op', 1)
  set('op_at', a.op_at)
  set('op_by', a.op_by)
  set('op_why', a.op_why)
  ends(a.op_until)
  note('pause', a.op_by, a.op_why, a.op_until)
end
moved()
return answer(1)
