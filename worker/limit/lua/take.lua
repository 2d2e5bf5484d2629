-- take: books slots for calls, in order, until one of them has to wait.
-- KEYS     see state.lua
-- ARGV[2]  calls: list of {key: of the reservation; class; estimate: of its input, 0 for
--          none; max: most output, 0 for no cap}; late: list of {key, booked_in: its
--          epoch}: reservations whose time has passed unused, given back before
-- Returns  {epoch, status, wait, slack, bound, status, ...}: four for each call
--          that was decided, slack -1 for no end of it, bound what the wait is for (see
--          reserve). Calls behind the first that waits or is refused are not looked at.
catch_up()
renew_lease()
for _, late in ipairs(a.late) do
  local booked = late.booked_in == s.epoch and redis.call('HGET', BOOKED, late.key)
  if booked then give_back(late.key, unpacked(booked)) end
end
clip()
local reply = {s.epoch}
if redis.call('ZCARD', WAITING) > 0 then
  if redis.call('ZSCORE', WAITING, a.holder) then stand_in_line(a.calls[1]) end
  hand_over()
end
for _, call in ipairs(a.calls) do
  local status, wait, slack, bound = reserve(a.holder, call)
  reply[#reply + 1] = status
  reply[#reply + 1] = micros(wait)
  reply[#reply + 1] = slack < 0 and -1 or micros(slack)
  reply[#reply + 1] = bound
  if status == 'full' then stand_in_line(call) end
  if status ~= 'ok' or wait > 0 then break end
end
save()
return reply
