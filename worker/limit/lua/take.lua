-- take: books slots for calls, in order, until one of them has to wait.
-- After the chapters. ARGV[13...]: four a call: key, class, input estimate, max_tokens.
-- Returns {epoch, status, wait, status, wait, ...}: one pair for each call that
-- was decided. Calls behind the first that waits or is refused are not looked at.
catch_up()
renew_lease()
local reply = {s.epoch}
if #ARGV >= 13 and redis.call('ZSCORE', WAITING, me) then
  stand_in_line(me, ARGV[13], ARGV[14], tonumber(ARGV[15]), tonumber(ARGV[16]))
end
hand_over()
for i = 13, #ARGV, 4 do
  local status, wait = reserve(me, ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
  reply[#reply + 1] = status
  reply[#reply + 1] = string.format('%.6f', wait)
  if status == 'full' then stand_in_line(me, ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])) end
  if status ~= 'ok' or wait > 0 then break end
end
save()
return reply
