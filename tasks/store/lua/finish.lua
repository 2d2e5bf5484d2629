-- How a job leaves its pool: its end, another pool, and what becomes of those that
-- follow it.

-- letIn gives a tenant that was passed over its turn back, or brings a user's jobs back, in the pool in
-- which that was longest ago, and has it claimed with the script's own.
local opened = {} -- pool -> its depth
local function letIn(owner)
  local user = string.find(owner, '/', 1, true)
  for _ = 1, without('ZCARD', keys.passed(owner)) or 0 do
    if comings <= 0 then
      redis.pcall('ZADD', keys.atLimit(), now, owner)
      return
    end
    local first = redis.pcall('ZPOPMIN', keys.passed(owner))[1]
    if not first then return end
    local depth, pool = string.match(first, '^(%d+) (.*)$')
    local fit, came = pool and pcall(fitsPool, pool), false
    if fit and user then
      came = comeBack(pool, depth, owner)
    elseif fit then
      came = letBack(pool, owner)
    elseif pool then
      notedAt(owner, pool, depth)
    end
    if came then
      opened[pool] = tonumber(depth)
      return
    end
  end
end

-- vacate gives the places of a job back that is in nobody's hands any more.
local function vacate(j)
  if not j.pl then return end
  j.pl = nil
  drops(j, 'pl')
  for _, owner in ipairs({ j.t, j.us and ownerOf(j) }) do
    if redis.pcall('ZREM', keys.outs(owner), j.id) == 1 and not crammed(owner) then letIn(owner) end
  end
end

-- outOfLine takes a job out of its tenant's backlog.
local function outOfLine(j)
  redis.call('ZREM', keys.backlog(j.p, j.t), j.id)
  if j.us then redis.pcall('ZREM', keys.aside(j.p, ownerOf(j)), j.id) end
end

-- claimOpened is claim of the pools that letIn has opened.
local function claimOpened(tickets)
  while next(opened) do
    local pool, depth = next(opened)
    opened[pool] = nil -- a claim may end jobs, and so open another
    claim(pool, depth, tickets)
  end
end

-- pass ends the lead of a job that leads those that ask the same: so many of them go into
-- the backlog, and the last of these leads the rest. So whoever follows has, at
-- any moment, somebody before it who will ask, or has asked.
local function pass(j, many) -- seldom
  local lead, fol = keys.leader(j.p, j.sh), keys.followers(j.p, j.sh)
  redis.call('HDEL', j.key, 'sh')
  redis.call('DEL', lead)
  local last
  while many > 0 do
    local popped = redis.call('ZPOPMIN', fol)[1]
    if not popped then break end
    local f, bad = sound(popped, fits)
    if bad then broken(popped, keys.due()) end
    if f and phase[f.s] == 'queued' then
      backlog(f)
      moment(f, 'b', now)
      become(f, f.s)
      many, last = many - 1, f
    end
  end
  if last and redis.call('EXISTS', fol) == 1 then
    redis.call('HSET', last.key, 'sh', j.sh)
    redis.call('SET', lead, last.id)
  end
  j.sh = nil
end

-- divert makes a waiting job another pool's: to is the pool, cost what it is expected to
-- cost there (µs), passed how many of its fallback models it has gone to, left how many remain. Its place in its
-- tenant's order stays; whoever holds it has lost it.
local function divert(j, to, cost, passed, left) -- seldom
  leave(j)
  vacate(j)
  reckon(j, 0)
  if j.sh then pass(j, 1) end
  if j.fo then
    redis.call('HDEL', j.key, 'fo')
    j.fo = nil
  end
  outOfLine(j)
  if manyOf(j.p, laneOf(j), j.t) == 0 then strike(j.p, laneOf(j), j.t) end
  pooled(j.p, 'queued', -1)
  pooled(to, 'queued', 1)
  local bound = expected(envelopeOf(j))
  promises(j.p, bound, -1)
  promises(to, bound, 1)
  redis.call('HSETNX', j.key, 'p0', j.p)
  redis.call('HSET', j.key, 'p', to, 'fi', passed, 'nb', redis.call('HGET', j.key, 'n') or 0)
  left = tonumber(left)
  if left > 0 then
    j.fb = left
    redis.call('HSET', j.key, 'fb', left)
  else
    j.fb = nil
    redis.call('HDEL', j.key, 'fb')
  end
  redis.call('HINCRBY', j.key, 'f', 1)
  moment(j, 'd', now, j.p)
  mishap(j.p, 'd', to, j.id)
  j.p, j.cs = to, nil
  if tonumber(cost) > 0 then
    j.cs = cost
    puts(j, 'cs', cost)
  else
    drops(j, 'cs')
  end
  backlog(j)
  become(j, j.s)
end

-- finish makes a job final, having used so many tokens, and j.cost of its pool's allowance
-- (µs; nil: nobody knows), and tells of it. A sweep
-- forgets it ttl later; should none come, the record ends soon after by itself.
local function finish(j, to, outcome, used)
  leave(j)
  vacate(j)
  if j.s ~= 'running' then
    outOfLine(j)
    redis.call('ZREM', keys.due(), j.id)
  end
  if j.dl > 0 then redis.call('ZREM', keys.deadlines(), j.id) end
  reckon(j, j.cost or j.s ~= 'running' and 0 or nil)
  puts(j, 'o', outcome, 'fin', now, 'exp', now + ttl)
  drops(j, 'due', 'k', j.cs and 'cs' or nil)
  settle(j, used)
  local v = become(j, to)
  tell(j.t, 'job.' .. to, j.id, 'evt_' .. string.sub(j.id, 5) .. '_' .. v, ownURL(j), '', nil, j.us)
  redis.call('PEXPIRE', j.key, ttl + 60000)
  redis.call('ZADD', keys.expiring(), now + ttl, j.t .. '|' .. j.id)
  -- Those that an answer waits for are done with at once, and need no pace; one
  -- that did not get it leaves the asking to the next.
  if j.sh then pass(j, to == 'succeeded' and 64 or 1) end
end

-- expire ends a job whose deadline has passed, or comes before it can go; called says that a call was made
-- in vain just now, and used how many tokens it took, as far as is known.
expire = function(j, called, used) -- seldom
  redis.call('RPUSH', keys.late(), j.id)
  local billed = called and 'true' or 'false'
  local why = j.dl > now and 'the job cannot go before its deadline any more' or 'the deadline passed before the job was done'
  finish(j, 'expired', '{"error":{"code":"deadline_exceeded","message":"' .. why .. '","maybe_billed":' .. billed .. '}}', called and used or 0)
  mishap(j.p, 'j', 'deadline_exceeded', j.id)
end
