-- A process looks after pools, perhaps as their worker.
-- KEYS     see begin.lua
-- ARGV[2]  {works: the process makes calls of these pools; every: ms; me: its version and name, "" to be listed nowhere}
-- ARGV[3]  and on: pools
-- Returns  of each pool that nobody has looked at for that long, and which the caller is to look at now: its
--          name and ms since somebody did, -1 when nobody has.
spare()
if a.me ~= '' then
  redis.pcall('ZADD', keys.processes(), now, (a.works and '1 ' or '0 ') .. a.me)
  redis.pcall('ZREMRANGEBYSCORE', keys.processes(), '-inf', now - 60000)
end
local turns = {}
for i = 3, #ARGV do
  local eye = keys.watched(ARGV[i])
  local last = tonumber(without('HGET', eye, 'at') or 0)
  local mine = now - last >= a.every or last > now + 60000
  local set = { 'HSET', eye }
  if mine then set = adds(set, 'at', now) end
  if a.works then set = adds(set, 'wk', now) end
  if set[3] then redis.pcall(unpack(set)) end -- of another type, it holds up nobody
  if mine then
    turns[#turns + 1] = ARGV[i]
    turns[#turns + 1] = last > 0 and now - last or -1
  end
end
return turns
