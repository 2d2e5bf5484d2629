-- The caller wants failed, canceled or expired jobs once more, under their ids. Each is
-- queued whole or stays as it is; the first that a limit refuses ends it.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant; most: waiting jobs, or 0; daily: most tokens a day, or 0; budget: most money a day, or 0;
--          own: of its user the limits, see admit, or nil; widest: most bytes of bodies, or 0; weight: the tenant's, and its places, see weigh; pass: true to pass over what no limit can ever hold}
-- ARGV[3]  and on, for each job, none twice: id, depth of its pool, shift of order ms, tokens to set aside or 0,
--          bytes of the body to count or 0, what it is expected to cost (JSON: µs of a pool's allowance or 0, by pool)
-- Returns  {words, refusal, tickets}: for each job that was looked at "ok", "gone", "conflict", or "large" when it
--          was passed over; the refusal is {}, {"leaving"} of a tenant that is being deleted, {"brim"}, {"full", waiting}, {"heavy", bytes}, {"spent", tokens left, ms
--          until midnight UTC} or {"broke", money left, ms until midnight UTC, that midnight}.
local said = answered()
if said then return said end
local words, jobs = {}, {}
local own = a.own or { 0, 0, 0 }

-- beyond reports whether a limit can never hold so much.
local function beyond(n, most) return most > 0 and n > most end

for i = 3, #ARGV, 6 do
  local j = load(ARGV[i], 'fin', 'p0', 'fi')
  local n = #words + 1
  local tokens, bytes = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  if not j or foreign(a.tenant, j.t, j.key) then
    words[n] = 'gone'
  elseif not final(j.s) or j.s == 'succeeded' or not j.br and redis.call('HEXISTS', j.key, 'b') == 0 then
    words[n] = 'conflict'
  elseif a.pass and (beyond(tokens, a.daily) or beyond(tokens, own[2]) or beyond(bytes, a.widest) or
    (a.budget > 0 or own[3] > 0) and (beyond(pledge(envelopeOf(j)), a.budget) or beyond(pledge(envelopeOf(j)), own[3]))) then
    words[n] = 'large'
  else
    words[n] = 'ok'
    fitsEnd(j)
    if not jobs[1] then lasting() end
    j.first = j.p0 or j.p -- where it begins again
    fits({ p = j.first, t = j.t, us = j.us, qb = bytes > 0 })
    if bytes > 0 then fitsBytes() end
    if tokens > 0 then daysOf(j.t, j.us) end
    local e = redis.call('HGET', j.key, 'e')
    j.bound = expected(e)
    j.after = tonumber(string.match(e, '"nb":(%d+)') or 0)
    sorted(keys.due())
    j.costs = cjson.decode(ARGV[i + 5])
    j.at, j.depth, j.shift, j.tokens, j.bytes = n, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tokens, bytes
    jobs[#jobs + 1] = j
  end
end

local function requeue(j)
  if closed(j.t) then return { 'leaving' } end
  local bounds, one = { [j.first] = j.bound }, { [j.first] = 1 }
  if crowded(0, bounds, one) then return { 'brim' } end
  local refusal = admit(j.t, j.us, 1, j.tokens, a.most, a.daily, j.bytes, a.widest, pledge(redis.call('HGET', j.key, 'e')), a.budget, a.own)
  if refusal then return refusal end
  aside(j, j.tokens, j.bytes)
  promises(j.first, j.bound, 1)
  weigh(j.t, a.weight)
  redis.call('PERSIST', j.key)
  redis.call('ZREM', keys.expiring(), j.t .. '|' .. j.id)
  -- Its deadline served the first time; kept, it would expire the job at once.
  redis.call('HDEL', j.key, 'o', 'fin', 'exp', 'dl', 'st', 'n', 'fo', 'lw', 'al', 'sp', 'cs')
  j.cs = nil
  -- It begins again with its own model.
  moment(j, 'x', now, j.fin and string.format('%.0f', j.fin - j.ct))
  if j.p0 then
    moment(j, 'd', now, j.p)
    j.p, j.fb = j.p0, tonumber(j.fi) + tonumber(j.fb or 0)
    redis.call('HSET', j.key, 'p', j.p, 'fb', j.fb)
    redis.call('HDEL', j.key, 'p0', 'fi', 'nb')
  end
  j.k = now + j.shift
  local set = { 'k', j.k }
  if (j.costs[j.first] or 0) > 0 then
    j.cs = j.costs[j.first]
    set[3], set[4] = 'cs', j.cs
  end
  redis.call('HSET', j.key, unpack(set))
  if j.c then
    local g = keys.batch(j.c)
    redis.call('HDEL', g, 'ended', 'canceling')
    redis.call('PERSIST', g)
    redis.call('PERSIST', keys.lines(j.c))
  end
  if j.after > now then -- its caller wants it no earlier
    redis.call('HSET', j.key, 'due', j.after)
    redis.call('ZADD', keys.due(), j.after, j.id)
    become(j, 'scheduled')
  else
    become(j, 'queued')
    backlog(j)
  end
end

local depths, tickets, refusal = {}, {}, {}
for _, j in ipairs(jobs) do
  local no = requeue(j)
  if no then
    refusal = no
    for i = #words, j.at, -1 do words[i] = nil end
    break
  end
  depths[j.p] = j.depth
end
for pool, depth in pairs(depths) do
  claim(pool, depth, tickets)
end
if not next(depths) then return { words, refusal, {} } end
return answer({ words, refusal, tickets })
