-- Compares the counts of waiting and running jobs with the records, and mends what is
-- off by the same number as a round ago: that is no move of a job between two looks.
-- KEYS     see begin.lua
-- ARGV[2]  {before: by how much each was off a round ago; since: the id from which on jobs came while the round went; most: jobs;
--          tenants: how many; unmet: how many; compare: whether there are few enough; depths: of the pools to look after, by pool}
-- ARGV[3]  and on: tenants, then ids that were met without a record a round ago and were found with no tenant since, then ids that were not final
-- Returns  {off: key and by how much in turn, met: ids that were met without a record, mended: keys, lost: id and pool in turn}.
for pool in pairs(a.depths) do
  if not pcall(fitsPool, pool) then a.depths[pool] = nil end -- of another type: the other pools go on
end
each('HLEN', keys.missing())
counted('waiting', '')
sorted(keys.due(), keys.unfolding())
spare()
local off, mended, lost = {}, {}, {}
for i = 3 + a.tenants, 2 + a.tenants + a.unmet do
  local was, pool = string.match(redis.call('HGET', keys.missing(), ARGV[i]) or '', '^(%a+) (.*)$')
  if pool and pcall(fitsPool, pool) then
    redis.call('HDEL', keys.missing(), ARGV[i])
    pooled(pool, was, -1)
    lost[#lost + 1], lost[#lost + 2] = ARGV[i], pool
  end
end
local met = redis.call('HRANDFIELD', keys.missing(), a.most)
-- Not while lines wait that are in no pool yet.
if not a.compare or redis.call('ZCARD', keys.unfolding()) > 0 then return { off, met, mended, lost } end

local seen, want, room = {}, {}, a.most
local function add(kind, name) want[kind .. name] = (want[kind .. name] or 0) + 1 end
local function tally(ids)
  if ids.err then return end -- of another type: its jobs stand in a line as well
  for _, id in ipairs(ids) do
    if not seen[id] then
      seen[id] = true
      room = room - 1
      local h = redis.pcall('HMGET', keys.job(id), 's', 't', 'p', 'us')
      if h.err then room = -1 end -- of another type: how it is counted is not known
      local p = h[1] and phase[h[1]]
      if p == 'queued' then
        add('waiting ', h[2])
        if h[4] then add('user ', h[2] .. '/' .. h[4]) end
        add('queued ', h[3])
      elseif p == 'running' then
        add('running ', h[3])
      end
    end
  end
end
-- Where jobs stand now: one that was queued again meanwhile was final when the round
-- came by. One that follows another stands nowhere, and is among the others.
tally({ unpack(ARGV, 3 + a.tenants + a.unmet) })
tally(redis.call('ZRANGE', keys.due(), 0, a.most))
for pool in pairs(a.depths) do
  for _, line in ipairs({ keys.handed(pool), keys.held(pool), keys.running(pool) }) do
    tally(redis.call('ZRANGE', line, 0, a.most))
  end
  for _, tenant in ipairs(redis.call('ZRANGE', keys.ring(pool), 0, a.most)) do
    if room < 0 then break end
    tally(redis.pcall('ZRANGE', keys.backlog(pool, tenant), 0, a.most))
  end
end
for i = 3, 2 + a.tenants do
  if room < 0 then break end
  tally(redis.pcall('ZREVRANGEBYLEX', keys.jobs(ARGV[i]), '+', '[' .. a.since, 'LIMIT', 0, a.most))
end
if room < 0 then return { off, met, mended, lost } end -- too many for one look, or one that is not known

local function compare(kind, name)
  local it = kind .. ' ' .. name
  local by = counted(kind, name) - (want[it] or 0)
  if by == 0 then return end
  if a.before[it] == by then
    correct(kind, name, -by)
    mended[#mended + 1] = it
  else
    off[#off + 1], off[#off + 2] = it, by
  end
end
local read = {}
for i = 3, 2 + a.tenants do
  local tenant = ARGV[i]
  compare('waiting', tenant)
  local users = usersOf(tenant)
  read[tenant] = not users.err
  for _, of in ipairs(users) do want['user ' .. tenant .. '/' .. of] = want['user ' .. tenant .. '/' .. of] or 0 end
end
for it in pairs(want) do
  local owner, tenant = string.match(it, '^user (([^/]*)/.*)$')
  if owner and read[tenant] then compare('user', owner) end
end
for pool in pairs(a.depths) do
  compare('queued', pool)
  compare('running', pool)
end
return { off, met, mended, lost }
