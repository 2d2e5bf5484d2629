-- Notes which master keys a process has, and forgets those of processes that have died.
-- KEYS     see begin.lua
-- ARGV[2]  {whom: the process; known: its master keys as JSON, as tasks/seal tells them apart; keep: ms that a note stands}
-- Returns  1.
local notes = keys.sealKnown()
local dead = {}
for i, note in ipairs(redis.call('HGETALL', notes)) do
  if i % 2 == 1 then
    dead[#dead + 1] = note
  elseif tonumber(string.match(note, '^%d+') or 0) + a.keep >= now then
    dead[#dead] = nil
  end
end
redis.call('HSET', notes, a.whom, string.format('%d %s', now, a.known))
for _, whom in ipairs(dead) do
  if whom ~= a.whom then redis.call('HDEL', notes, whom) end
end
return 1
