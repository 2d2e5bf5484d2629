-- Bundles: jobs that go to a provider's own batch API together. A job joins one by the
-- script of its start, so that it is running and a member, or neither.

-- fitsBundle looks at what joining a bundle writes, and finds the one that is joined.
local function fitsBundle(j) -- seldom
  local b = a.bundle
  redis.call('ZCARD', keys.bundles(j.p))
  b.id = redis.call('HGET', keys.gathering(j.p), b.kind) or b.id
  local h = redis.call('HMGET', keys.bundle(b.id), 'n', 'by', 'sp', 'ct')
  redis.call('HLEN', keys.members(b.id))
  b.n, b.bytes, b.begun = tonumber(h[1] or 0) + 1, tonumber(h[2] or 0) + b.bytes, tonumber(h[4] or now)
  b.spill = math.min(b.spill, tonumber(h[3] or b.spill))
end

-- joins makes a job that starts a member. It waits for no place of its tenant's: those are
-- for calls.
local function joins(j) -- seldom
  local b = a.bundle
  local full = b.n >= b.mostJobs or b.bytes >= b.mostBytes
  redis.call('HSET', keys.bundle(b.id), 'n', b.n, 'by', string.format('%.0f', b.bytes), 'sp', string.format('%.0f', b.spill),
    'k', b.kind, 'ac', b.account, 'md', b.model, 'ep', b.endpoint, 's', full and 'closed' or 'gathering', 'ct', b.begun)
  redis.call('HSET', keys.members(b.id), j.id, j.f .. ' ' .. j.t)
  redis.call('ZADD', keys.bundles(j.p), full and now or math.min(b.begun + b.mostAge, b.spill), b.id)
  if full then redis.call('HDEL', keys.gathering(j.p), b.kind) else redis.call('HSET', keys.gathering(j.p), b.kind, b.id) end
  puts(j, 'bu', b.id)
  vacate(j)
end

-- bundled reports whether a job is in its bundle, and not in the ordinary lane after it.
local function bundled(j)
  local id = redis.call('HGET', j.key, 'bu')
  return id and j.s == 'running' and redis.pcall('HGET', keys.members(id), j.id) == j.f .. ' ' .. j.t
end
