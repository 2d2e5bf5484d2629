-- A worker is alive: its leases run on.
-- KEYS[1] prefix; ARGV[1] lease ms, then pairs of id and fence
-- Returns the ids that the caller no longer holds.
spare()
local lost = {}
for a = 2, #ARGV, 2 do
  local j = load(ARGV[a])
  if not j or final(j.s) or j.f ~= tonumber(ARGV[a + 1]) then
    lost[#lost + 1] = ARGV[a]
  elseif j.s == 'running' then
    redis.call('ZADD', keys.running(j.p), 'XX', now + ARGV[1], j.id)
  else
    redis.call('ZREM', keys.handed(j.p), j.id)
    redis.call('ZADD', keys.held(j.p), now + ARGV[1], j.id)
  end
end
return lost
