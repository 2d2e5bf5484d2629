-- Stores jobs, each whole or not at all, and hands out what there is room for.
-- KEYS[1] prefix
-- ARGV[1] result ttl ms, ARGV[2] idempotency ttl ms, then for each job 17 values:
--   id, tenant, pool, depth, shift of order ms, status, due ms, deadline ms,
--   envelope, body, idempotency key or "", fingerprint, most waiting jobs or 0, fallback models,
--   tokens to set aside or 0, most tokens a day or 0, tenant's weight
-- Returns {outcomes, tickets}: an outcome a job is {"new", created ms, place in its tenant's backlog or 0,
--   tenants with a backlog}, {"replay", id, answer}, {"reused"}, {"busy"}, {"full", waiting} or {"spent", tokens left,
--   ms until midnight UTC}; tickets are id, fence, pool in turn.
local ttl, keep = tonumber(ARGV[1]), tonumber(ARGV[2])
local outcomes, tickets, depths = {}, {}, {}

local function create(a)
  local id, tenant, pool, status = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 5]
  -- The same submit once more: the connection ended before the first answer, and
  -- the client sent it again. Its ticket may have been in that answer.
  local made = load(id)
  if made then
    if redis.call('ZSCORE', keys.handed(pool), id) then
      tickets[#tickets + 1] = id
      tickets[#tickets + 1] = made.f
      tickets[#tickets + 1] = pool
    end
    return { 'new', tonumber(redis.call('HGET', made.key, 'ct')) }
  end
  local ikey = ARGV[a + 10]
  if ikey ~= '' then
    ikey = keys.idempotency(tenant, ikey)
    local seen = redis.call('HMGET', ikey, 'fp', 'id', 'ans', 'busy')
    if seen[4] then return { 'busy' } end
    if seen[1] then
      if seen[1] ~= ARGV[a + 11] then return { 'reused' } end
      return { 'replay', seen[2], seen[3] or '' }
    end
  end
  local most = tonumber(ARGV[a + 12])
  if most > 0 then
    local waiting = tonumber(redis.call('HGET', keys.waiting(), tenant) or 0)
    if waiting >= most then return { 'full', waiting } end
  end
  local tokens = tonumber(ARGV[a + 14])
  local spent = take(tenant, tokens, tonumber(ARGV[a + 15]))
  if spent then return spent end
  weigh(tenant, ARGV[a + 16])
  local j = { id = id, key = keys.job(id), t = tenant, p = pool, s = status, k = now + ARGV[a + 4] }
  redis.call('HSET', j.key, 'e', ARGV[a + 8], 'b', ARGV[a + 9], 's', status, 't', tenant, 'p', pool, 'k', j.k, 'ct', now)
  if ARGV[a + 13] ~= '0' then
    j.fb = ARGV[a + 13]
    redis.call('HSET', j.key, 'fb', j.fb)
  end
  if tokens > 0 then redis.call('HSET', j.key, 'q', ARGV[a + 14] .. ' ' .. today) end
  redis.call('ZADD', keys.jobs(tenant), 0, id)
  count(j, nil, 'queued')
  if tonumber(ARGV[a + 7]) > 0 then
    redis.call('HSET', j.key, 'dl', ARGV[a + 7])
    redis.call('ZADD', keys.deadlines(), ARGV[a + 7], id)
  end
  if status == 'scheduled' then
    redis.call('HSET', j.key, 'due', ARGV[a + 6])
    redis.call('ZADD', keys.due(), ARGV[a + 6], id)
  else
    backlog(j)
    depths[pool] = tonumber(ARGV[a + 3])
  end
  if ikey ~= '' then
    redis.call('HSET', j.key, 'ik', ARGV[a + 10])
    redis.call('HSET', ikey, 'fp', ARGV[a + 11], 'id', id)
    redis.call('PEXPIRE', ikey, keep)
  end
  return { 'new', now }
end

for a = 3, #ARGV, 17 do
  outcomes[#outcomes + 1] = create(a)
end
for pool, depth in pairs(depths) do
  claim(pool, depth, ttl, tickets)
end
for i, o in ipairs(outcomes) do
  if o[1] == 'new' then
    local a = 3 + (i - 1) * 17
    local rank = redis.call('ZRANK', keys.backlog(ARGV[a + 2], ARGV[a + 1]), ARGV[a])
    o[3], o[4] = rank and rank + 1 or 0, redis.call('ZCARD', keys.ring(ARGV[a + 2]))
  end
end
return { outcomes, tickets }
