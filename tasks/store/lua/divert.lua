-- Waiting jobs of a paused pool go to the pools of their fallback models.
-- KEYS[1] prefix; ARGV[1] result ttl ms, ARGV[2] the paused pool, then for each job 5 values:
--   id, pool to go to, its depth, fallback models gone to with it, left after it
-- Returns {ids of those that moved, tickets}. A job that has started, ended or moved meanwhile stays.
spare()
local moved, tickets, depths = {}, {}, {}
for a = 3, #ARGV, 5 do
  local j = load(ARGV[a])
  local to = ARGV[a + 1]
  if j and phase[j.s] == 'queued' and j.p == ARGV[2] and j.fb and redis.call('ZSCORE', keys.fallbacks(j.p), j.id) then
    local held = redis.call('ZSCORE', keys.held(j.p), j.id)
    divert(j, to, ARGV[a + 3], ARGV[a + 4])
    if held then redis.pcall('PUBLISH', keys.control(), 'cancel ' .. j.id) end -- its worker lets go of it
    moved[#moved + 1] = j.id
    depths[to] = tonumber(ARGV[a + 2])
  end
end
for pool, depth in pairs(depths) do
  claim(pool, depth, tonumber(ARGV[1]), tickets)
end
return { moved, tickets }
