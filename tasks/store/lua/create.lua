-- Stores jobs, each whole or not at all, and hands out what there is room for.
-- KEYS     see begin.lua
-- ARGV[2]  {budgets: most money a day, by tenant that has such a limit; users: by the ids of jobs those whose alone they are; own: the limits of users, see admit, by tenant/user, where there are any; keep: ms that an Idempotency-Key is remembered; again: true when it is sent once more after a lost answer;
--          calls: digest of what is asked, perhaps "", by the id of a job whose caller waits for it; lease, gone: see call_open.lua; found: ms that a repeat finds the call}
-- ARGV[3]  and on, for each job: id, tenant, pool, depth, shift of order ms, not_before ms or 0,
--          deadline ms, envelope, body, Idempotency-Key or "" and fingerprint (see reserved), most waiting jobs or 0,
--          fallback models, tokens to set aside or 0, most tokens a day or 0, tenant's weight and places, see weigh, "1" for an
--          id that the caller gave, bytes of the body to count or 0, most bytes or 0, field of the body, µs of the pool's allowance that the call is
--          expected to cost or 0
-- Returns  {outcomes, tickets}: an outcome a job is {"new", created ms, place in its tenant's backlog or 0,
--   tenants with a backlog}, {"replay", id, answer}, {"reused", id}, {"busy"}, {"taken"}, {"leaving"} of a tenant that is being deleted, {"away", why}, {"brim"}, {"full", waiting}, {"heavy", bytes},
--   {"spent", tokens left, ms until midnight UTC} or {"broke", money left, ms until midnight UTC, that midnight}, of a user's own limits "user full" and so on; tickets are id, fence, pool in turn.
local outcomes, tickets, depths, made = {}, {}, {}, {}
local bounds, jobs, bytesIn, sets, fitting = {}, {}, 0, {}, {}
local many = #ARGV > 23
if many then sums = { pools = {}, tenants = {}, users = {} } end

-- alike reports whether two envelopes can be of one submit.
local function alike(one, other)
  one, other = cjson.decode(one), cjson.decode(other)
  return one.m == other.m and (one.k or 'prompt') == (other.k or 'prompt') and one.x == other.x and one.i == other.i
end

-- comes notes what one job more, or less, takes of the room in Redis.
local function comes(pool, bound, size, n)
  bounds[pool], jobs[pool], bytesIn = (bounds[pool] or 0) + n * bound, (jobs[pool] or 0) + (bound > 0 and n or 0), bytesIn + n * size
end

-- enters notes that a job goes into a set.
local function enters(set, score, id)
  local rows = sets[set]
  if not rows then
    rows = {}
    sets[set] = rows
  end
  rows[#rows + 1], rows[#rows + 2] = score, id
end

local function create(n, i)
  local id, tenant, pool, depth, shift, due, deadline, envelope, body, ikey, fingerprint, most, fallbacks,
    tokens, daily, weight, named, bytes, widest, field, cost = unpack(ARGV, i, i + 20)
  -- The same submit once more: the connection ended before the first answer, and
  -- the client sent it again. Its ticket may have been in that answer.
  if closed(tenant) then return { 'leaving' } end
  local was = redis.call('EXISTS', keys.job(id)) == 1 and load(id)
  if was then
    if was.t ~= tenant or was.us ~= a.users[id] or not alike(redis.call('HGET', was.key, 'e'), envelope) then return { 'taken' } end
    if named == '1' and not a.again then return { 'replay', id, '' } end
    if redis.call('ZSCORE', keys.handed(pool), id) then
      tickets[#tickets + 1] = id
      tickets[#tickets + 1] = was.f
      tickets[#tickets + 1] = pool
    end
    made[n] = was
    return { 'new', was.ct }
  end
  if ikey ~= '' then ikey, fingerprint = reserved(tenant, ikey, fingerprint) end
  local kept = keys.idempotency(tenant, ikey)
  if ikey ~= '' then
    local seen = redis.call('HMGET', kept, 'fp', 'id', 'ans', 'busy')
    if seen[4] then return { 'busy' } end
    if seen[1] then
      if seen[1] ~= fingerprint then return { 'reused', seen[2] } end
      return { 'replay', seen[2], seen[3] or '' }
    end
  end
  -- Of another type, what this job is counted in refuses this job alone.
  most, tokens, bytes, depth = tonumber(most), tonumber(tokens), tonumber(bytes), tonumber(depth)
  local all, call = marks(id, envelope), a.calls[id]
  local sound, why = pcall(function()
    if tokens > 0 or ikey ~= '' or call then lasting() end
    if call == '' then sorted(keys.callers()) elseif call then sorted(keys.callers(), keys.calls(tenant, call)) end
    local same = tenant .. '/' .. (a.users[id] or '') .. (all and '\n' or ' ') .. pool
    if not fitting[same] then
      fits({ id = id, p = pool, t = tenant, us = a.users[id] }, keys.jobs(tenant), keys.deadlines(), all and keys.marked(tenant) or keys.due(), keys.due())
      fitting[same] = true -- the next one has the same sets
    end
    if tokens > 0 then daysOf(tenant, a.users[id]) end
    if bytes > 0 then fitsBytes() end
  end)
  if not sound then return { 'away', type(why) == 'table' and why.err or tostring(why) } end
  local bound, size = expected(envelope), #envelope + #body + overhead
  comes(pool, bound, size, 1)
  local refusal = crowded(bytesIn, bounds, jobs) and { 'brim' }
    or admit(tenant, a.users[id], 1, tokens, most, tonumber(daily), bytes, tonumber(widest), pledge(envelope), a.budgets[tenant], a.own[tenant .. '/' .. (a.users[id] or '')])
  if refusal then
    comes(pool, bound, size, -1)
    return refusal
  end
  weigh(tenant, weight)
  local status = tonumber(due) > now and 'scheduled' or 'queued'
  local j = { id = id, key = keys.job(id), t = tenant, us = a.users[id], p = pool, s = status, k = orderIn(shift, math.max(now, tonumber(due)), tonumber(deadline)) }
  puts(j, 'e', envelope, field, body, 's', status, 't', tenant, 'p', pool, 'k', j.k, 'ct', now)
  if fallbacks ~= '0' then
    j.fb = fallbacks
    puts(j, 'fb', j.fb)
  end
  if cost ~= '0' then
    j.cs = cost
    puts(j, 'cs', cost)
    expects(j)
  end
  if a.users[id] then puts(j, 'us', a.users[id]) end
  aside(j, tokens, bytes)
  if ikey ~= '' then puts(j, 'ik', ikey) end
  if deadline ~= '0' then
    puts(j, 'dl', deadline)
    enters(keys.deadlines(), deadline, id)
  end
  -- Among several jobs, the backlog says which goes first.
  local goes = not many and status == 'queued' and (deadline == '0' or tonumber(deadline) > now) and atOnce(j, depth)
  if goes then puts(j, 'f', 1, occupy(j)) end
  if status == 'scheduled' then puts(j, 'due', due) end
  redis.call('HSET', j.key, unpack(j.set))
  enters(keys.jobs(tenant), 0, id)
  if goes then handOut(j, 1, tickets) end
  if all then marking(tenant, all) end
  count(j, nil, 'queued')
  if status == 'scheduled' then
    enters(keys.due(), due, id)
  else
    if j.fb then enters(keys.fallbacks(pool), j.k, id) end
    if not goes then
      enters(keys.backlog(pool, tenant), j.k, id)
      ring(j)
      depths[pool] = depth
    end
  end
  if ikey ~= '' then
    redis.call('HSET', kept, 'fp', fingerprint, 'id', id)
    redis.call('PEXPIRE', kept, a.keep)
  end
  if call then
    enters(keys.callers(), now + a.lease + a.gone, id)
    if call ~= '' then
      redis.call('ZADD', keys.calls(tenant, call), now + a.lease, id)
      redis.call('PEXPIRE', keys.calls(tenant, call), a.found + a.lease)
    end
  end
  made[n] = j
  return { 'new', now, goes and 0, goes and 0 }
end

for i = 3, #ARGV, 21 do
  outcomes[#outcomes + 1] = create(#outcomes + 1, i)
end
for set, rows in pairs(sets) do redis.call('ZADD', set, unpack(rows)) end
for pool, bound in pairs(bounds) do promises(pool, bound, jobs[pool]) end
if bytesIn > 0 then took(bytesIn) end
if many then summed() end
for pool, depth in pairs(depths) do
  claim(pool, depth, tickets)
end
local rings = {}
for n, o in ipairs(outcomes) do
  local j = made[n]
  if j and not o[3] then
    rings[j.p] = rings[j.p] or redis.call('ZCARD', keys.ring(j.p))
    o[3], o[4] = rankOf(j), rings[j.p]
  end
end
return { outcomes, tickets }
