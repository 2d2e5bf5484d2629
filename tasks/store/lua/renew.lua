-- A worker is alive: its leases run on.
-- KEYS     see begin.lua
-- ARGV[2]  {lease (ms)}
-- ARGV[3]  and on, for each job: id, fence
-- Returns  the ids that the caller no longer holds.
spare()
local lost = {}

-- settles gives a job its places that was handed out before its tenant or user had a limit, or by a
-- release that knows of none. One from which a pause has taken it asks for it when it starts, and one that has
-- just gone into a bundle has left it: those are for calls.
local function settles(j)
  if j.pl ~= '0' and limited(j) and not bundled(j) then redis.call('HSET', j.key, occupy(j)) end
end

for i = 3, #ARGV, 2 do
  local j, broken = sound(ARGV[i], function(j) fitsPool(j.p) end)
  if broken then
    -- Nobody can take it either.
  elseif not j or final(j.s) or j.f ~= tonumber(ARGV[i + 1]) then
    lost[#lost + 1] = ARGV[i]
  elseif j.s == 'running' then
    redis.call('ZADD', keys.running(j.p), 'XX', 'GT', now + a.lease, j.id) -- one that has just gone into a bundle has a longer one
    settles(j)
  else
    redis.call('ZREM', keys.handed(j.p), j.id)
    redis.call('ZADD', keys.held(j.p), now + a.lease, j.id)
    settles(j)
  end
end
return lost
