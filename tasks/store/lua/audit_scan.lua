-- Goes over records as Redis has them, some keys at a time, and puts a job or a batch
-- that stands in none of its tenant's lists into them: the audit then looks after it.
-- KEYS     see begin.lua
-- ARGV[2]  {cursor; most: keys, about}
-- Returns  {cursor to go on from, "0" at the end; how many were put back}.
local all = redis.call('SCAN', a.cursor, 'COUNT', a.most)
spare()
local back = 0

-- listed reports whether a batch's lines are in the lists, or will be: they come there
-- when it is unfolded.
local function listed(batch)
  local g = redis.call('HMGET', keys.batch(batch), 't', 'whole', 'at')
  return not g[1] or g[2] and not g[3]
end

-- found has the audit look after a tenant.
local function found(tenant)
  fitsTenant(tenant)
  known(tenant)
end

local function job(id)
  local j = load(id)
  if not j then return end
  if not final(j.s) then found(j.t) end
  if redis.call('ZSCORE', keys.jobs(j.t), id) or j.c and not listed(j.c) then return end
  found(j.t)
  redis.call('ZADD', keys.jobs(j.t), 0, id)
  back = back + 1
end

local function batch(id)
  local g = redis.call('HMGET', keys.batch(id), 't', 'whole', 'at')
  if not g[1] or not g[2] then return end
  local listed, unfolded = redis.call('ZSCORE', keys.batches(g[1]), id), not g[3] or redis.call('ZSCORE', keys.unfolding(), id)
  if listed and unfolded then return end
  found(g[1])
  redis.call('ZADD', keys.batches(g[1]), 0, id)
  if not unfolded then redis.call('ZADD', keys.unfolding(), now, id) end
  back = back + 1
end

-- What is of another type holds up none of the others.
local jobs, batches = keys.job(''), keys.batch('')
for _, key in ipairs(all[2]) do
  if string.sub(key, 1, #jobs) == jobs then
    pcall(job, string.sub(key, #jobs + 1))
  elseif string.sub(key, 1, #batches) == batches then
    pcall(batch, string.sub(key, #batches + 1))
  end
end
return { all[1], back }
