-- renew: the caller lives, and what it waits for may have come.
-- KEYS     see state.lua
-- ARGV[2]  key: the reservation that it waits for in line, '' for none
-- Returns  {epoch, then what was handed over to the caller: "status wait key", ...}
catch_up()
renew_lease()
hand_over()
if a.key ~= '' and #handed == 0 then
  local b = redis.call('HGET', BOOKED, a.key)
  if b then
    handed[1] = string.format('ok %.0f %s', micros(math.max(0, unpacked(b).send - now)), a.key)
  elseif not redis.call('ZSCORE', WAITING, a.holder) then
    handed[1] = 'again 0 ' .. a.key
  end
end
save()
local reply = {s.epoch}
for _, m in ipairs(handed) do reply[#reply + 1] = m end
return reply
