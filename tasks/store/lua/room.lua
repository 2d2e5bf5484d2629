-- Room in Redis: what is in use, and what the results of the jobs that were accepted
-- will take. Work comes in while both together stay below a part of maxmemory, so that
-- every job that was accepted has room to end in. Of each pool it is known how large its
-- jobs' results may be at most (as Go reckons by max_tokens, in the envelope), and how
-- large those were that came of late: the one is scaled by the other. Of another type
-- than it should be, what is noted here stops no work.

local intake = 0.9   -- of maxmemory: above it nothing is taken in
local brim = 0.95    -- from here on pools are paused,
local ebb = 0.92     -- until here
local few = 8        -- results
local recent = 64    -- results, about
local overhead = 1536 -- bytes of a record beside its body

-- weighed is how much memory a result of so many bytes takes, with all that ends a job.
local function weighed(bytes) return math.floor(bytes * 1.25) + 1024 end

-- expected is how much a job's result may take, as its envelope has it; 0: another
-- release made the job.
local function expected(envelope) return tonumber(string.match(envelope or '', '"r":(%d+)') or 0) end

local stands -- as this run knows it
local function stand()
  if not stands then
    stands = {}
    local flat = redis.pcall('HGETALL', keys.room())
    for i = 1, #flat, 2 do stands[flat[i]] = tonumber(flat[i + 1]) end
  end
  return stands
end
local most, rooms = nil, {}

-- roomOf is what is promised to a pool's jobs: b and n of keys.room(). limit is Redis's
-- maxmemory, 0 being none.
local function roomOf(pool)
  if not rooms[pool] then
    local h = redis.pcall('HMGET', keys.room(), 'm', 'b:' .. pool, 'n:' .. pool)
    most = tonumber(h[1]) or 0
    rooms[pool] = { b = tonumber(h[2]) or 0, n = tonumber(h[3]) or 0 }
  end
  return rooms[pool]
end
local function limit()
  most = most or tonumber(without('HGET', keys.room(), 'm')) or 0
  return most
end
local function changes(field, by)
  if by == 0 then return end
  local now = redis.pcall('HINCRBY', keys.room(), field, string.format('%.0f', by))
  if stands then stands[field] = tonumber(now) end
end

-- promised is how many bytes the results of all jobs that have not ended will take, and
-- of those that would come: bounds and jobs by pool.
local function promised(bounds, jobs)
  local r, sum = stand(), 0
  local function add(pool, bound, n)
    local share = math.min(r['c:' .. pool] or 0, few) / few
    local guess = math.max(bound, n * (r.l or 0))
    if share > 0 then guess = share * bound * r['s:' .. pool] / r['e:' .. pool] + (1 - share) * guess end
    sum = sum + math.max(0, guess)
  end
  for field, bound in pairs(r) do
    local pool = string.match(field, '^b:(.*)$')
    if pool then add(pool, bound + (bounds[pool] or 0), (r['n:' .. pool] or 0) + (jobs[pool] or 0)) end
  end
  for pool, bound in pairs(bounds) do
    if not r['b:' .. pool] then add(pool, bound, jobs[pool]) end
  end
  return sum
end

-- crowded reports whether there is no room for so many bytes of bodies now and the
-- results of such jobs later. Where nothing limits Redis there always is.
local function crowded(bytes, bounds, jobs)
  local pool = next(bounds)
  if pool then roomOf(pool) end
  if limit() == 0 then return false end
  local r = stand()
  return (r.u or 0) + (r.a or 0) + bytes + promised(bounds, jobs) > intake * most
end

-- promises changes what a pool's jobs have to expect, by so many jobs; less than none
-- when they have ended.
local function promises(pool, bound, n)
  if bound <= 0 then return end
  local r = roomOf(pool)
  r.b, r.n = r.b + (n < 0 and -bound or bound), r.n + n
  redis.pcall('HSET', keys.room(), 'b:' .. pool, string.format('%.0f', r.b), 'n:' .. pool, string.format('%.0f', r.n))
  if stands then stands['b:' .. pool], stands['n:' .. pool] = r.b, r.n end
end

-- took notes that so many bytes came in since Redis was last asked. Where nothing limits
-- Redis nobody reads it.
local function took(bytes)
  if limit() > 0 then changes('a', bytes) end
end

-- learn takes in how large a job's result was.
local function learn(pool, bound, bytes)
  roomOf(pool)
  local size = weighed(bytes)
  took(size)
  if bound <= 0 or limit() == 0 then return end
  local h = redis.pcall('HMGET', keys.room(), 's:' .. pool, 'e:' .. pool)
  local keep = 1 - 1 / recent
  redis.pcall('HSET', keys.room(), 's:' .. pool, string.format('%.0f', (h[1] or 0) * keep + size), 'e:' .. pool, string.format('%.0f', (h[2] or 0) * keep + bound))
  changes('c:' .. pool, 1)
end

-- stood notes how Redis stands now.
local function stood(used, most, full, least)
  stands.l = least
  redis.pcall('HSET', keys.room(), 'u', string.format('%.0f', used), 'm', string.format('%.0f', most), 'a', 0, 'full', full, 'l', least)
end
