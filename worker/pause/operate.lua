-- operate carries out an operator's word. A resume also clears what the breaker
-- holds against the key, the account or the address, for calls that are sent from now on: the
-- operator has seen to it. A provider that is down is probed at once instead.
-- KEYS     see lib.lua
-- ARGV[2]  {op: names the word: sent again after its answer was lost, it changes nothing; verb: 'pause', 'resume', or 'try': what is held against key, account or address is
--           cleared, and an operator's pause is not; by, reason; until: ms when the pause ends by itself, 0 for never; gen, slow (ms), audit_max}
-- Returns  1 when anything changed, else 0

for _, entry in ipairs(redis.call('LRANGE', KEYS[2], 0, 19)) do
  if cjson.decode(entry).op == a.op then return answer(1) end
end

if a.verb == 'pause' then
  if h.op ~= '1' then set('op_at', now) end
  set('op', 1)
  set('op_by', a.by)
  set('op_why', a.reason)
  ends(a['until'])
  if not next(dirty) then return answer(0) end
  moved()
  note('pause', a.by, a.reason, a['until'])
  return answer(1)
end

local refused = state() ~= 'closed' and h.cause ~= 'overload'

if a.verb == 'try' then
  if h.op == '1' or not refused then return answer(0) end
elseif h.op ~= '1' and state() == 'closed' then
  return answer(0)
end

set('op', 0)
set('op_by', '')
set('op_why', '')
ends(0)
if refused then
  -- A probe in flight has been overtaken.
  set('fence', num('fence') + 1)
  close()
elseif state() ~= 'closed' then
  set('next', now)
  set('probe_fp', '')
end
moved()
note('resume', a.by, '')
return answer(1)
