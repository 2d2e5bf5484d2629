-- Compares some of a tenant's jobs with where they stand: one whose record is gone is
-- ended as lost, one that stands in no line is put back into it.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; from: "+" or "(" and the id before; most: jobs; depths: of the pools to look after, by pool; lease (ms)}
-- Returns  {last id, or "" at the end; live: id and batch or "" in turn; lost: id, pool or "", "ended" or "" in turn; how many were put back}.
-- A tenant of whose keys one is of another type is passed by. Where one of a pool's is,
-- a lost job may stand in it, and none is ended.
if not pcall(fitsAudit, a.tenant) then return { '', {}, {}, 0 } end
local told = pcall(function()
  for p in pairs(a.depths) do
    fitsPool(p)
    sorted(keys.backlog(p, a.tenant))
  end
end)
spare()
local ids = redis.call('ZREVRANGEBYLEX', keys.jobs(a.tenant), a.from, '-', 'LIMIT', 0, a.most)
local live, lost, back = {}, {}, 0

-- stood takes a job without a record out of every line, and returns the pool and the
-- phase that it was in, as far as that can be told.
local function stood(id)
  local pool, was
  for p in pairs(a.depths) do
    local queued = redis.call('ZREM', keys.backlog(p, a.tenant), id) + redis.call('ZREM', keys.handed(p), id) + redis.call('ZREM', keys.held(p), id)
    local running = redis.call('ZREM', keys.running(p), id)
    redis.call('ZREM', keys.fallbacks(p), id)
    if queued + running > 0 then pool, was = p, running > 0 and 'running' or 'queued' end
  end
  local met = redis.call('HGET', keys.missing(), id)
  if met then
    redis.call('HDEL', keys.missing(), id)
    if not pool then was, pool = string.match(met, '^(%a+) (.*)$') end
  end
  redis.call('ZREM', keys.due(), id)
  redis.call('ZREM', keys.deadlines(), id)
  return pool, was
end

-- born is when an id was made: a ULID begins with the ms.
local function born(id)
  local ms = 0
  for c in string.gmatch(string.sub(id, 5, 14), '.') do
    local at = string.find('0123456789ABCDEFGHJKMNPQRSTVWXYZ', c, 1, true)
    if not at then return now end
    ms = ms * 32 + at - 1
  end
  return math.min(ms, now)
end

-- bury leaves in the place of a lost job's record one that says so.
local function bury(id)
  local ends = redis.call('ZSCORE', keys.expiring(), a.tenant .. '|' .. id)
  if ends and tonumber(ends) <= now then return end -- it has ended its time, and a sweep forgets it
  if ends and not pcall(forget, a.tenant, id, 'expired') then return end
  if not ends and not pcall(each, 'LLEN', keys.tellings(id)) then return end
  local pool, was = stood(id)
  lost[#lost + 1] = id
  lost[#lost + 1] = pool or ''
  lost[#lost + 1] = ends and 'ended' or ''
  if ends then return end -- it was final: nobody waits for it, and how it ended was told
  if pool then pooled(pool, was, -1) end
  if was ~= 'running' then waits(a.tenant, -1) end
  local j = { id = id, key = keys.job(id), t = a.tenant, p = pool or '', s = 'failed' }
  redis.call('HSET', j.key, 's', j.s, 't', j.t, 'p', j.p, 'e', '{"m":"","k":""}', 'f', 0, 'v', 1,
    'ct', string.format('%.0f', born(id)), 'fin', now, 'exp', now + ttl,
    'o', '{"error":{"code":"job_lost","message":"Redis no longer has this job: its record was evicted or deleted. Whether it ran is not known.","maybe_billed":true}}')
  redis.call('PEXPIRE', j.key, ttl + 60000)
  redis.call('ZADD', keys.expiring(), now + ttl, a.tenant .. '|' .. id)
  note(j, 1)
  tell(j.t, 'job.failed', id, 'evt_' .. string.sub(id, 5) .. '_lost', nil, '')
end

local function waitsIn(key, id) return redis.call('ZSCORE', key, id) end

-- follows reports whether a job waits for one that will ask for both.
local function follows(j)
  if not j.fo or not waitsIn(keys.followers(j.p, j.fo), j.id) then return false end
  local first = redis.call('GET', keys.leader(j.p, j.fo))
  first = first and sound(first)
  return first and not final(first.s)
end

-- asides puts a job that stands aside back into line, if its user does not know of it, and sees that the user is looked at.
local function asides(j)
  if not without('ZSCORE', keys.aside(j.p, ownerOf(j)), j.id) then
    backlog(j)
    back = back + 1
  elseif a.depths[j.p] then
    notedAt(ownerOf(j), j.p, string.format('%.0f', a.depths[j.p]))
  end
end

-- place puts a job that is not final where it belongs, if it stands nowhere.
local function place(j)
  local at = j.s ~= 'running' and waitsIn(keys.backlog(j.p, j.t), j.id)
  if j.s == 'running' then
    if waitsIn(keys.running(j.p), j.id) then return end
    redis.call('ZADD', keys.running(j.p), now + a.lease, j.id)
  elseif at then
    if j.us and tonumber(at) >= 2 * apart then asides(j) else ring(j) end
    return
  elseif waitsIn(keys.handed(j.p), j.id) or waitsIn(keys.held(j.p), j.id) or waitsIn(keys.running(j.p), j.id)
    or waitsIn(keys.due(), j.id) or follows(j) then
    return
  else
    leave(j)
    if j.pl then redis.call('HDEL', j.key, 'pl') end
    if j.fo then redis.call('HDEL', j.key, 'fo') end
    redis.call('ZADD', keys.due(), redis.call('HGET', j.key, 'due') or now, j.id)
  end
  back = back + 1
end

for _, id in ipairs(ids) do
  local j, bad = sound(id, fits)
  if j and not final(j.s) then
    live[#live + 1] = id
    live[#live + 1] = j.c or ''
    place(j)
  elseif j and not redis.call('ZSCORE', keys.expiring(), j.t .. '|' .. id) then
    redis.call('ZADD', keys.expiring(), redis.call('HGET', j.key, 'exp') or now + ttl, j.t .. '|' .. id)
    back = back + 1
  elseif told and not j and not bad then
    bury(id)
  end
end
return { #ids < a.most and '' or ids[#ids], live, lost, back }
