-- Forgets contents, and counts their bytes no more: those of some documents, and those
-- whose time is over.
-- KEYS     see begin.lua
-- ARGV[2]  {most: whose time is over}
-- ARGV[3]  and on: ids of documents
-- Returns  where chunks of them lie elsewhere
spare()
local due = redis.call('ZRANGEBYSCORE', keys.contents(), '-inf', now, 'LIMIT', 0, a.most)
for i = 3, #ARGV do due[#due + 1] = ARGV[i] end
local loose = {}
for _, id in ipairs(due) do
  local list, held = keys.content(id), keys.stock(id)
  local h = redis.call('HMGET', held, 't', 'n', 'r')
  heavy(h[1] or '', 1, 1 / 0) -- it can be counted
  if h[3] then
    for _, lies in ipairs(redis.call('LRANGE', list, 0, -1)) do loose[#loose + 1] = lies end
  end
  redis.call('DEL', list)
  redis.call('DEL', held)
  redis.call('ZREM', keys.contents(), id)
  if h[1] then weighs(h[1], -tonumber(h[2])) end
end
return loose
