-- Stores jobs, each whole or not at all, and hands out what there is room for.
-- KEYS     see begin.lua
-- ARGV[2]  {budgets: most money a day, by tenant that has such a limit; keep: ms that an Idempotency-Key is remembered; again: true when it is sent once more after a lost answer;
--          calls: digest of what is asked, perhaps "", by the id of a job whose caller waits for it; lease, gone: see call_open.lua; found: ms that a repeat finds the call}
-- ARGV[3]  and on, for each job: id, tenant, pool, depth, shift of order ms, not_before ms or 0,
--          deadline ms, envelope, body, Idempotency-Key or "" and fingerprint (see reserved), most waiting jobs or 0,
--          fallback models, tokens to set aside or 0, most tokens a day or 0, tenant's weight and places, see weigh, "1" for an
--          id that the caller gave, bytes of the body to count or 0, most bytes or 0, field of the body, µs of the pool's allowance that the call is
--          expected to cost or 0
-- Returns  {outcomes, tickets}: an outcome a job is {"new", created ms, place in its tenant's backlog or 0,
--   tenants with a backlog}, {"replay", id, answer}, {"reused"}, {"busy"}, {"taken"}, {"away", why}, {"brim"}, {"full", waiting}, {"heavy", bytes},
--   {"spent", tokens left, ms until midnight UTC} or {"broke", money left, ms until midnight UTC, that midnight}; tickets are id, fence, pool in turn.
local outcomes, tickets, depths = {}, {}, {}

-- alike reports whether two envelopes can be of one submit.
local function alike(one, other)
  one, other = cjson.decode(one), cjson.decode(other)
  return one.m == other.m and one.k == other.k and one.x == other.x and one.i == other.i
end

local function create(i)
  local id, tenant, pool, depth, shift, due, deadline, envelope, body, ikey, fingerprint, most, fallbacks,
    tokens, daily, weight, named, bytes, widest, field, cost = unpack(ARGV, i, i + 20)
  -- The same submit once more: the connection ended before the first answer, and
  -- the client sent it again. Its ticket may have been in that answer.
  local made = load(id)
  if made then
    if made.t ~= tenant or not alike(redis.call('HGET', made.key, 'e'), envelope) then return { 'taken' } end
    if named == '1' and not a.again then return { 'replay', id, '' } end
    if redis.call('ZSCORE', keys.handed(pool), id) then
      tickets[#tickets + 1] = id
      tickets[#tickets + 1] = made.f
      tickets[#tickets + 1] = pool
    end
    return { 'new', tonumber(redis.call('HGET', made.key, 'ct')) }
  end
  if ikey ~= '' then ikey, fingerprint = reserved(tenant, ikey, fingerprint) end
  local kept = keys.idempotency(tenant, ikey)
  if ikey ~= '' then
    local seen = redis.call('HMGET', kept, 'fp', 'id', 'ans', 'busy')
    if seen[4] then return { 'busy' } end
    if seen[1] then
      if seen[1] ~= fingerprint then return { 'reused' } end
      return { 'replay', seen[2], seen[3] or '' }
    end
  end
  -- Of another type, what this job is counted in refuses this job alone.
  most, tokens, bytes, depth = tonumber(most), tonumber(tokens), tonumber(bytes), tonumber(depth)
  local all, call = marks(id, envelope), a.calls[id]
  local sound, why = pcall(function()
    if tokens > 0 or ikey ~= '' or call then lasting() end
    if call == '' then sorted(keys.callers()) elseif call then sorted(keys.callers(), keys.calls(tenant, call)) end
    fits({ id = id, p = pool, t = tenant }, keys.jobs(tenant), keys.deadlines(), all and keys.marked(tenant) or keys.due(), keys.due())
    if tokens > 0 then dayOf(tenant) end
    if bytes > 0 then fitsBytes() end
  end)
  if not sound then return { 'away', type(why) == 'table' and why.err or tostring(why) } end
  local bound, size = expected(envelope), #envelope + #body + overhead
  if crowded(size, { [pool] = bound }, { [pool] = 1 }) then return { 'brim' } end
  local refusal = admit(tenant, 1, tokens, most, tonumber(daily), bytes, tonumber(widest), pledge(envelope), a.budgets[tenant])
  if refusal then return refusal end
  promises(pool, bound, 1)
  took(size)
  weigh(tenant, weight)
  local status = tonumber(due) > now and 'scheduled' or 'queued'
  local j = { id = id, key = keys.job(id), t = tenant, p = pool, s = status, k = orderIn(shift, math.max(now, tonumber(due)), tonumber(deadline)) }
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
  aside(j, tokens, bytes)
  if ikey ~= '' then puts(j, 'ik', ikey) end
  if deadline ~= '0' then
    puts(j, 'dl', deadline)
    redis.call('ZADD', keys.deadlines(), deadline, id)
  end
  -- Among several jobs, the backlog says which goes first.
  local goes = #ARGV == 23 and status == 'queued' and (deadline == '0' or tonumber(deadline) > now) and atOnce(j, depth)
  if goes then puts(j, 'f', 1, occupy(j)) end
  if status == 'scheduled' then puts(j, 'due', due) end
  redis.call('HSET', j.key, unpack(j.set))
  redis.call('ZADD', keys.jobs(tenant), 0, id)
  if goes then handOut(j, 1, tickets) end
  if all then marking(tenant, all) end
  count(j, nil, 'queued')
  if goes then
    if j.fb then redis.call('ZADD', keys.fallbacks(pool), j.k, id) end
  elseif status == 'scheduled' then
    redis.call('ZADD', keys.due(), due, id)
  else
    backlog(j)
    depths[pool] = depth
  end
  if ikey ~= '' then
    redis.call('HSET', kept, 'fp', fingerprint, 'id', id)
    redis.call('PEXPIRE', kept, a.keep)
  end
  if call then
    redis.call('ZADD', keys.callers(), now + a.lease + a.gone, id)
    if call ~= '' then
      redis.call('ZADD', keys.calls(tenant, call), now + a.lease, id)
      redis.call('PEXPIRE', keys.calls(tenant, call), a.found + a.lease)
    end
  end
  return { 'new', now, goes and 0, goes and 0 }
end

for i = 3, #ARGV, 21 do
  outcomes[#outcomes + 1] = create(i)
end
for pool, depth in pairs(depths) do
  claim(pool, depth, tickets)
end
for n, o in ipairs(outcomes) do
  if o[1] == 'new' and not o[3] then
    local i = 3 + (n - 1) * 21
    local id, tenant, pool = unpack(ARGV, i, i + 2)
    o[3], o[4] = rankOf(pool, tenant, id), redis.call('ZCARD', keys.ring(pool))
  end
end
return { outcomes, tickets }
