-- A worker stops: a call of its jobs that is lost from now on is not held against them.
-- KEYS     see begin.lua
-- ARGV[2]  {mark: what is noted}
-- ARGV[3]  and on, for each job: id, fence
-- Returns  1
spare()
for i = 3, #ARGV, 2 do
  local j = sound(ARGV[i])
  if j and j.s == 'running' and j.f == tonumber(ARGV[i + 1]) then redis.call('HSET', j.key, 'sp', a.mark) end
end
return 1
