-- take: books slots for calls, in order, until one of them has to wait.
-- KEYS     see state.lua
-- ARGV[2]  calls: list of {key: of the reservation; class; estimate: of its input, 0 for
--          none; max: most output, 0 for no cap}
-- Returns  {epoch, status, wait, status, wait, ...}: one pair for each call that was
--          decided. Calls behind the first that waits or is refused are not looked at.
catch_up()
renew_lease()
local reply = {s.epoch}
if redis.call('EXISTS', WAITING) == 1 then
  if redis.call('ZSCORE', WAITING, a.holder) then stand_in_line(a.calls[1]) end
  hand_over()
end
for _, call in ipairs(a.calls) do
  local status, wait = reserve(a.holder, call)
  reply[#reply + 1] = status
  reply[#reply + 1] = micros(wait)
  if status == 'full' then stand_in_line(call) end
  if status ~= 'ok' or wait > 0 then break end
end
save()
return reply
