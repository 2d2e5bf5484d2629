-- Writes as whatever takes work in does, and says something: both are possible now. It
-- also notes how much of Redis's memory is in use, which works in a full Redis too.
-- KEYS     see begin.lua
-- ARGV[2]  {keep: ms that it is remembered; least: bytes of a result at least, in a pool of which few have come,
--          small: bytes of maxmemory above which that shrinks}
-- Returns  {now, what Redis has against writing or saying something; "" for nothing; 1 while pools are to be paused for
--          want of memory; bytes in use, what the results of accepted jobs will take, maxmemory; 0: none, or it is not said}.
local wrote = redis.pcall('SET', keys.beat(), now, 'PX', a.keep)
local against = type(wrote) == 'table' and wrote.err or ''
if against ~= '' and not string.find(against, 'OOM', 1, true) then return wrote end
spare()
local said = redis.pcall('PUBLISH', keys.note('beat'), '')
if against == '' and type(said) == 'table' then against = said.err or '' end

local info = redis.pcall('INFO', 'memory')
if type(info) ~= 'string' then return { now, against, 0, 0, 0, 0 } end
local function number(name) return tonumber(string.match(info, '\n' .. name .. ':(%d+)') or 0) end
local used, most = number('used_memory') - number('mem_not_counted_for_evict'), number('maxmemory')
local r = stand()
local full = used >= brim * most or r.full == 1 and used > ebb * most
full = most > 0 and full and 1 or 0
-- In a large Redis a mistake about the first results is a small part of all.
stood(used, most, full, math.floor(a.least * math.min(1, a.small / math.max(most, 1))))
-- Where nothing waits or runs nothing is promised, should another release have ended jobs
-- without saying so.
if redis.call('ZCARD', keys.staging()) + redis.call('ZCARD', keys.unfolding()) == 0 then
  for field, bound in pairs(r) do
    local pool = bound ~= 0 and string.match(field, '^b:(.*)$')
    if pool and idle(pool) then
      changes(field, -bound)
      changes('n:' .. pool, -(r['n:' .. pool] or 0))
    end
  end
end
return { now, against, full, used, promised({}, {}), most }
