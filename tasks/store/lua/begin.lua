-- What every script begins with: its arguments, the clock, the way on in a full
-- Redis, and the names of what a chapter has that stands behind its callers. Behind it
-- comes what the script needs of the chapters, and nothing else (link.go). What most runs
-- do without is marked there as seldom: it is made when it is called.
--
-- KEYS[1]  prefix of all keys, see keys.lua
-- ARGV[1]  now in ms, or '' for Redis TIME: only tests and the simulator give one
-- ARGV[2]  JSON: the arguments by name, read as a. Each script adds its own to
--   ttl    ms that a finished job is kept
-- ARGV[3]  and on: what is many or of any bytes, as it is: the rows of one list,
--          value by value, or single texts

local a = cjson.decode(ARGV[2])
local now, ttl = tonumber(ARGV[1]), a.ttl
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
end

-- A tenant that a script is sent may be one user of it, for which nobody else's is there (tasks/owner.go).
local user
if a.tenant then
  local tenant, of = string.match(a.tenant, '^([^/]*)/(.*)$')
  if tenant then a.tenant, user = tenant, of end
end

-- spare lets a script go on in a full Redis: one that has begun to write is not
-- stopped in the middle. For moves that jobs need to come to their end, which
-- makes room; never for what takes more in.
local function spare() redis.call('DEL', keys.spare()) end

-- graced notes a sweep and reports whether leases of a kind say nothing yet: when
-- nobody has swept for a while, Redis or all of Sluice was away, and who holds one
-- could not renew it. It also returns whether a process of release 0.1.0 may have swept last.
local function graced(swept, grace, lease)
  local was = redis.call('GET', swept)
  local last = tonumber(was or now)
  redis.call('SET', swept, string.format('%.0f.0', now))
  if now - last > 3000 then redis.call('SET', grace, now + lease, 'PX', lease) end
  return tonumber(redis.call('GET', grace) or 0) > now, not was or not string.find(was, '.', 1, true)
end

-- tell writes the deliveries of an event (webhook.lua); expire ends a job whose
-- deadline has passed (finish.lua).
local tell, expire
