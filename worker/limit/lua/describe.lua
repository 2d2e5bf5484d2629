-- describe: what the gate looks like now; writes no more than the ledger's upkeep.
-- KEYS     see state.lua
-- ARGV[2]  nothing of its own
-- Returns  {epoch, in flight, hold s, why, pace, binding dimension 0..4 (4:
--          concurrency), mean latency s, concurrency, then for each dimension:
--          limit a minute, capacity, level or '', share used of the last minute,
--          guard, mean need of a call, rate a second after foreign use; then 1 when a
--          holder's lease has not ended, else 0, and the share of the pace that refusals
--          of late leave, 0 to 1}
spare()
catch_up()
save()
local bind = 0
if redis.call('ZCARD', WAITING) > 0 then
  bind = 4
elseif s.bound_by > 0 and now - s.bound_at < 5 and rate[s.bound_by] > 0 then
  bind = s.bound_by
end
local reply = {s.epoch, in_flight, string.format('%.9g', math.max(0, s.hold_until - now)), now < s.hold_until and s.hold_reason or '',
  string.format('%.9g', start_share(now) * s.soft_pace), bind, string.format('%.9g', s.mean_latency), string.format('%.9g', a.concurrency)}
for d = 1, 3 do
  local limited = rate[d] > 0
  reply[#reply + 1] = string.format('%.0f', s.limit[d])
  reply[#reply + 1] = string.format('%.0f', capacity[d])
  reply[#reply + 1] = s.level[d] and string.format('%.9g', s.level[d]) or ''
  reply[#reply + 1] = string.format('%.9g', limited and s.used[d] / s.limit[d] or 0)
  reply[#reply + 1] = string.format('%.9g', limited and guard(d, 0) or 0)
  reply[#reply + 1] = string.format('%.9g', s.mean_need[d] or 0)
  reply[#reply + 1] = string.format('%.9g', limited and rate[d] + s.foreign_rate[d] or 0)
end
reply[#reply + 1] = #redis.call('ZRANGEBYSCORE', HOLDERS, now, '+inf', 'LIMIT', 0, 1)
reply[#reply + 1] = string.format('%.9g', s.soft_pace)
return reply
