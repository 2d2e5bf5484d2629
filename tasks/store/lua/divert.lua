-- Waiting jobs of a paused pool go to the pools of their fallback models.
-- KEYS     see begin.lua
-- ARGV[2]  {pool: the paused one}
-- ARGV[3]  and on, for each job: id, pool to go to, its depth, what the job is expected to cost there (µs) or 0, fallback models gone to with it, left after it
-- Returns  {ids of those that moved, tickets}. A job that has started, ended or moved meanwhile stays.
spare()
local moved, tickets, depths = {}, {}, {}
for i = 3, #ARGV, 6 do
  local id, to, depth, cost, passed, left = unpack(ARGV, i, i + 5)
  local j = sound(id, function(j)
    fits(j)
    fits({ p = to, t = j.t })
  end)
  if j and phase[j.s] == 'queued' and j.p == a.pool and j.fb and redis.call('ZSCORE', keys.fallbacks(j.p), j.id) then
    local held = redis.call('ZSCORE', keys.held(j.p), j.id)
    divert(j, to, cost, passed, left)
    if held then redis.pcall('PUBLISH', keys.control(), 'cancel ' .. j.id) end -- its worker lets go of it
    moved[#moved + 1] = j.id
    depths[to] = tonumber(depth)
  end
end
for pool, depth in pairs(depths) do
  claim(pool, depth, tickets)
end
return { moved, tickets }
