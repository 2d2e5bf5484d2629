-- state: what the gate looks like now; writes no more than gate.lua's upkeep.
-- After gate.lua. No further ARGV.
-- Returns {epoch, in flight, waiting holders, hold s, why, pace, soft, binding
-- dimension 0..4 (4: concurrency), mean latency s, concurrency,
-- then for each dimension: limit a minute, capacity, level or '', share used of
-- the last minute, guard, mean need of a call, rate a second after foreign use}.
save()
local waiting = redis.call('ZCARD', WAITING)
local bind = 0
if waiting > 0 then
  bind = 4
elseif s.bind > 0 and now - s.bind_t < 5 and r[s.bind] > 0 then
  bind = s.bind
end
local reply = {F(s.epoch), inflight, waiting, F(math.max(0, s.hold - now)), now < s.hold and s.why or '',
  F(s.pace * slow(now) * s.soft), F(s.soft), bind, F(s.ml or 0), F(s.conc)}
for d = 1, 3 do
  local limited = r[d] > 0
  reply[#reply + 1] = F(s[LIM[d]])
  reply[#reply + 1] = F(B[d])
  reply[#reply + 1] = s[LV[d]] and F(s[LV[d]]) or ''
  reply[#reply + 1] = F(limited and s[USED[d]] / s[LIM[d]] or 0)
  reply[#reply + 1] = F(limited and guard(d, 0) or 0)
  reply[#reply + 1] = F(s[MEAN[d]] or 0)
  reply[#reply + 1] = F(limited and r[d] + s[BIAS[d]] or 0)
end
return reply
