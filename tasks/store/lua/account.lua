-- What pools, tenants and their users have: jobs that wait and run, tokens and money of the day and
-- the bytes of bodies. These functions alone change it, each in the script that moves the record:
-- nothing can lie between the two. Work comes in by admit, moves by count, and is done
-- with by settle; what was set aside for it comes back once, whoever ends it.

local unknown = -1 -- tokens used by a call whose outcome nobody saw

-- puts and drops note what is to be written to, and deleted from, a job's record with
-- its status: by one write for all (become in record.lua).
local function adds(list, ...)
  if not list then return { ... } end
  local n = #list
  for i, v in ipairs({ ... }) do list[n + i] = v end
  return list
end
local function puts(j, ...) j.set = adds(j.set, ...) end
local function drops(j, ...) j.drop = adds(j.drop, ...) end

local function book(day)
  day.unbooked = nil
  if day.user then
    redis.call('HSET', day.key, day.user, string.format('%.0f %.0f %.0f %.0f', day.used, day.reserved, day.paid, day.pledged))
    if not day.begun then redis.call('PEXPIREAT', day.key, (today + 1) * 86400000) end
    day.begun = true
    return
  end
  local money = {}
  if day.paid ~= 0 or day.pledged ~= 0 then
    day.money = true
    money = { 'mu', string.format('%.0f', day.paid), 'mr', string.format('%.0f', day.pledged) }
  elseif day.money then
    money = { 'mu', 0, 'mr', 0 }
  end
  redis.call('HSET', day.key, 'd', today, 'u', string.format('%.0f', day.used), 'r', string.format('%.0f', day.reserved), unpack(money))
  if day.begun then return end -- else it ends with its day already
  redis.call('PEXPIREAT', day.key, (today + 1) * 86400000)
  day.begun = true
end

-- pledge is the money that is set aside with a job's tokens, as its envelope has it.
local function pledge(envelope) return tonumber(string.match(envelope or '', '"rm":(%d+)') or 0) end

-- post counts a call under way to its tenant's ledger of the day on which it ended:
-- spent are calls, input tokens, output tokens, those read from the provider's cache and
-- those written to it, and billionths that it cost and that it may have cost besides.
local ledgerDays = 400
local function add(line, spent)
  local sums, told = line.sums, {}
  for i, n in ipairs(spent) do
    sums[i] = (sums[i] or 0) + n
    told[i] = string.format('%.0f', sums[i])
  end
  redis.call('HSET', line.key, line.name, table.concat(told, ' '))
end
local function post(j, spent)
  local line, own = lineOf(j), userLineOf(j)
  if not line then return end
  add(line, spent)
  if own then
    add(own, spent)
    if not own.begun then redis.call('PEXPIREAT', own.key, (today + ledgerDays + 1) * 86400000) end
    own.begun = true
  end
  if j.q and spent[6] + spent[7] ~= 0 then -- whose own day counts it too
    for _, day in ipairs(daysOf(j.t, j.us)) do
      day.paid, day.unbooked = day.paid + spent[6] + spent[7], true
    end
  end
  if line.begun then return end
  line.begun = true
  redis.call('PEXPIREAT', line.key, (today + ledgerDays + 1) * 86400000)
  redis.call('ZADD', keys.ledgers(), today, j.t)
end

-- mishap counts what went wrong in a pool, by five minutes of the last hour: kind is c for a call that brought no
-- answer, by its outcome, j for a job that failed or expired, by the code of its error, d for one that left for a
-- fallback, by the pool that it went to. Nothing depends on it: where another type stands, nothing is counted.
local function mishap(pool, kind, cause, id) -- seldom
  local key, at = keys.mishaps(pool), now - now % 300000
  local field = string.format('%s%d %s', kind, at / 300000 % 12, cause)
  local was, n = string.match(without('HGET', key, field) or '', '^(%d+) (%d+)')
  n = was == string.format('%.0f', at) and n + 1 or 1
  redis.pcall('HSET', key, field, string.format('%.0f %d %s', at, n, id))
  redis.pcall('PEXPIRE', key, 3600000)
end

-- A script that takes several jobs in has sums: what each of them changes is noted there, and
-- written once for all by summed. Else it is nil, and all is written at once.
local sums

-- pooled and waits change how many jobs of a pool are in a phase, perhaps come from
-- another, and how many of a tenant wait.
local function pooled(pool, phase, n, from)
  local load = loadOf(pool)
  load[phase] = load[phase] + n
  local set = { phase, load[phase] }
  if from then
    load[from] = load[from] - n
    set[3], set[4] = from, load[from]
  end
  if sums then
    sums.pools[pool] = phase
    return
  end
  if load.cost then set = adds(set, 'cost', load.cost, 'guess', load.guess) end
  if load.staged then set = adds(set, 'stage', string.format('%.0f', load.stage)) end
  if load.begins then set = adds(set, 'begun', string.format('%.0f', load.begun)) end
  if load.more then set = adds(set, '\t' .. load.tenant, load.served) end
  load.staged, load.begins, load.more = nil, nil, nil
  redis.call('HSET', keys.load(pool), unpack(set))
end
local function waits(tenant, n)
  if sums then
    waiting[tenant] = waitingOf(tenant) + n
    sums.tenants[tenant] = (sums.tenants[tenant] or 0) + n
  else
    waiting[tenant] = redis.call('HINCRBY', keys.waiting(), tenant, n)
  end
end

-- userWaits changes how many jobs wait that are one user's alone; user nil: none is.
local function userWaits(tenant, user, n)
  if not user then return end
  local owner = tenant .. '/' .. user
  local many = math.max(0, userWaitingOf(tenant, user) + n)
  userWaiting[owner] = many
  if sums then
    sums.users[owner] = { tenant, user }
  elseif many > 0 then
    redis.call('HSET', keys.userWaiting(tenant), user, many)
  else
    redis.call('HDEL', keys.userWaiting(tenant), user)
  end
end

-- dueOf is what the call of a job is expected to cost, in µs, or nil where nobody knows what calls cost.
local function dueOf(j)
  local load = loadOf(j.p)
  local guess, charged = string.match(j.cs or '', '^(%d+) ?(%d*)$')
  return tonumber(charged) or guess and load.guess and load.guess > 0 and guess * load.cost / load.guess or load.cost
end

-- begins counts a call that begins among all that a pool has made, and corrects that by more, µs, at its
-- end. pooled writes it.
local function begins(pool, more)
  local load = loadOf(pool)
  load.begun, load.begins = load.begun + math.ceil(more), true
end

-- onStage changes what the jobs of a pool between the backlog and the provider are expected to
-- cost, by one that comes or leaves (sign 1 or -1). Where nobody knows what calls cost, it is
-- nothing. pooled writes it along, and noteStage where nothing else is counted.
local function onStage(j, sign)
  local load, cost = loadOf(j.p), dueOf(j)
  if not cost then return end
  load.stage, load.staged = math.max(0, load.stage + sign * math.ceil(cost)), true
end
local function noteStage(pool)
  local load = loadOf(pool)
  if load.staged then redis.call('HSET', keys.load(pool), 'stage', string.format('%.0f', load.stage)) end
  load.staged = nil
end

-- counted is what a count has, "waiting" of a tenant, "user" of one of its users, as tenant/user, "queued" or "running" of
-- a pool; correct changes one that the records contradict. tenants are all that have a count, usersOf a tenant's users that have one,
-- and known has a tenant be one of them.
local function counted(kind, name)
  if kind == 'user' then return userWaitingOf(string.match(name, '^([^/]*)/(.*)$')) end
  if kind == 'waiting' then return tonumber(redis.call('HGET', keys.waiting(), name) or 0) end
  return tonumber(redis.call('HGET', keys.load(name), kind) or 0)
end
local function correct(kind, name, n)
  if kind == 'user' then
    local tenant, user = string.match(name, '^([^/]*)/(.*)$')
    userWaits(tenant, user, n)
  elseif kind == 'waiting' then
    waits(name, n)
  else
    pooled(name, kind, n)
  end
end
local function usersOf(tenant) return redis.pcall('HKEYS', keys.userWaiting(tenant)) end
local function tenants() return redis.call('HKEYS', keys.waiting()) end
local function known(tenant)
  if redis.call('HEXISTS', keys.waiting(), tenant) == 0 then waits(tenant, 0) end
end

-- weighs changes how many bytes of bodies a tenant has, bytesOf tells it, and heavy is a refusal of so many
-- more: {"heavy", bytes that it has}; widest is its limit, 0 being none.
local function weighs(tenant, bytes)
  if bytes ~= 0 and redis.call('HINCRBY', keys.bytes(), tenant, string.format('%.0f', bytes)) <= 0 then
    redis.call('HDEL', keys.bytes(), tenant)
  end
end
local function bytesOf(tenant) return tonumber(redis.call('HGET', keys.bytes(), tenant) or 0) end
local function heavy(tenant, bytes, widest)
  if bytes <= 0 or widest <= 0 then return end
  local held = bytesOf(tenant)
  if held + bytes > widest then return { 'heavy', held } end
end

-- idle reports whether none of a pool's jobs waits or runs.
local function idle(pool)
  local h = redis.call('HMGET', keys.load(pool), 'queued', 'running')
  return tonumber(h[1] or 0) <= 0 and tonumber(h[2] or 0) <= 0
end

-- overspent is a refusal of so many tokens, with so much money, by what a day has left of its limits.
local function overspent(day, tokens, daily, money, budget)
  local midnight = (today + 1) * 86400000
  local left = daily - day.used - day.reserved
  if daily > 0 and tokens > left then return { 'spent', math.max(0, left), midnight - now } end
  local rest = budget - day.paid - day.pledged
  if budget > 0 and (money > rest or rest <= 0) then return { 'broke', math.max(0, rest), midnight - now, midnight } end
end

-- admit is the one door by which a tenant's work comes to wait: so many jobs, with so
-- many tokens set aside for them, bodies of so many bytes, and money set aside with the
-- tokens. Work that is one user's alone counts to both; own are that user's {most, daily, budget}, or nil.
-- Past one of the limits, 0 being none, it takes nothing and returns {"full",
-- waiting}, {"heavy", bytes}, {"spent", tokens left, ms until midnight UTC} or {"broke",
-- money left, ms until midnight UTC, that midnight}; of a limit of the user's own the word begins with "user ", and
-- {"user full", waiting, waiting of others}.
local unlimited = { 0, 0, 0 }
local function admit(tenant, user, jobs, tokens, most, daily, bytes, widest, money, budget, own)
  local before = waitingOf(tenant)
  if most > 0 and before + jobs > most then return { 'full', before } end
  local refusal = heavy(tenant, bytes, widest)
  if refusal then return refusal end
  own = user and own or unlimited
  local its = user and userWaitingOf(tenant, user) or 0
  if own[1] > 0 and its + jobs > own[1] then return { 'user full', its, before - its } end
  if tokens > 0 then
    money = money or 0
    local counts = daysOf(tenant, user)
    refusal = overspent(counts[1], tokens, daily, money, budget or 0)
    if refusal then return refusal end
    refusal = counts[2] and overspent(counts[2], tokens, own[2], money, own[3])
    if refusal then
      refusal[1] = 'user ' .. refusal[1]
      return refusal
    end
    for _, day in ipairs(counts) do
      day.reserved, day.pledged = day.reserved + tokens, day.pledged + money
      if sums then day.unbooked = true else book(day) end
    end
  end
  waits(tenant, jobs)
  userWaits(tenant, user, jobs)
  weighs(tenant, bytes)
end

-- summed writes what was noted in sums.
local function summed()
  local of = sums
  sums = nil
  for pool, phase in pairs(of.pools) do pooled(pool, phase, 0) end
  for tenant, n in pairs(of.tenants) do waits(tenant, n) end
  for _, owner in pairs(of.users) do userWaits(owner[1], owner[2], 0) end
  for _, day in pairs(days) do
    if day.unbooked then book(day) end
  end
end

-- aside notes for a job's record what was set aside for it.
local function aside(j, tokens, bytes)
  if tokens > 0 then puts(j, 'q', tokens .. ' ' .. today) end
  if bytes > 0 then puts(j, 'qb', bytes) end
end

-- count moves a job from a phase to another, nil and the final ones being none. That it
-- waits, where it was in none, admit has counted.
local function count(j, from, to)
  if from == to then return end
  local leaves, comes = from == 'queued' or from == 'running', to == 'queued' or to == 'running'
  if comes then
    pooled(j.p, to, 1, leaves and from or nil)
  elseif leaves then
    pooled(j.p, from, -1)
  end
  local more = from == 'queued' and -1 or from == 'running' and to == 'queued' and 1
  if not more then return end
  waits(j.t, more)
  userWaits(j.t, j.us, more)
end

-- settle counts what a job used in place of what was set aside for it, or all
-- of that where it is unknown, and its body no more. The record has nothing set aside
-- afterwards.
local function settle(j, used)
  if j.qb then
    weighs(j.t, -tonumber(j.qb))
    drops(j, 'qb')
    j.qb = nil
  end
  promises(j.p, expected(envelopeOf(j)), -1)
  if not j.q then return end
  local tokens, on = string.match(j.q, '^(%d+) ?(%d*)$')
  if on == '' then on = redis.call('HGET', keys.batch(j.c or ''), 'qd') end
  tokens = tonumber(tokens)
  if used == unknown then used = tokens end
  drops(j, 'q')
  j.q = nil
  for _, day in ipairs(daysOf(j.t, j.us)) do
    if tonumber(on) == today then
      day.used, day.reserved = day.used + used, math.max(0, day.reserved - tokens)
      day.pledged = math.max(0, day.pledged - pledge(envelopeOf(j)))
    else -- the day that it was set aside on has paid for it; what is over that is of today
      day.used = day.used + math.max(0, used - tokens)
    end
    book(day)
  end
end

-- charge counts what an attempt used that the job outlives.
local function charge(j, used)
  if not j.q or used <= 0 then return end
  for _, day in ipairs(daysOf(j.t, j.us)) do
    day.used = day.used + used
    book(day)
  end
end

-- closeAccounts forgets all that a tenant has used, and fitsAccounts looks at what that writes.
local function fitsAccounts(pools)
  each('HLEN', keys.waiting(), keys.bytes())
  for _, pool in ipairs(pools) do each('HLEN', keys.load(pool)) end
  sorted(keys.ledgers())
end
local function closeAccounts(tenant, pools)
  for _, pool in ipairs(pools) do redis.call('HDEL', keys.load(pool), '\t' .. tenant) end
  local own = { keys.day(tenant), keys.userWaiting(tenant), keys.userDay(today - 1, tenant), keys.userDay(today, tenant), keys.userDay(today + 1, tenant) }
  for day = today - ledgerDays, today + 1 do own[#own + 1], own[#own + 2] = keys.ledger(day, tenant), keys.userLedger(day, tenant) end
  redis.call('DEL', unpack(own))
  redis.call('HDEL', keys.waiting(), tenant)
  redis.call('HDEL', keys.bytes(), tenant)
  redis.call('ZREM', keys.ledgers(), tenant)
end
