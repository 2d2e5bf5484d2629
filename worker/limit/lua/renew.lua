-- renew: the caller lives, and what it waits for may have come.
-- After the chapters. ARGV[13] the reservation that it waits for in line, empty: none.
-- Returns {epoch, then what was handed over to the caller: "status wait key", ...}.
catch_up()
renew_lease()
hand_over()
if ARGV[13] ~= '' and #handed == 0 then
  local b = redis.call('HGET', BOOKED, ARGV[13])
  if b then
    handed[1] = table.concat({'ok', string.format('%.6f', math.max(0, unpacked(b).send - now)), ARGV[13]}, ' ')
  elseif not redis.call('ZSCORE', WAITING, me) then
    handed[1] = 'again 0 ' .. ARGV[13]
  end
end
save()
local reply = {s.epoch}
for _, m in ipairs(handed) do reply[#reply + 1] = m end
return reply
