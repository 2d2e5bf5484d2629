-- The caller has an ended batch forgotten, and each job of it: the next lines, and the
-- batch with the last of them.
-- KEYS     see begin.lua
-- ARGV[2]  {batch, tenant; most: lines}
-- Returns  {"ok", lines left, where bodies lie that are of use no more}, {"gone"}, or {"conflict"} while it has not ended.
local g, list = keys.batch(a.batch), keys.lines(a.batch)
local h = redis.call('HMGET', g, 't', 'whole', 'ended', 'at', 'i')
if foreign(a.tenant, h[1], g) or not h[2] then return { 'gone' } end
if not h[3] or h[4] then return { 'conflict' } end
local ikey = h[5] and h[5] ~= '' and keys.idempotency(a.tenant, h[5])
local mine = ikey and redis.call('HGET', ikey, 'id') == a.batch
local ids = redis.call('LRANGE', list, -a.most, -1)
sorted(keys.batches(a.tenant), keys.jobs(a.tenant), keys.expiring())
spare()
for _, id in ipairs(ids) do
  local j, bad = sound(id)
  if j and not bad and j.t == a.tenant and final(j.s) then
    forget(j.t, id, 'deleted')
    redis.pcall('PUBLISH', keys.note(id), 'deleted')
  end
end
redis.call('LTRIM', list, 0, -#ids - 1)
local left = redis.call('LLEN', list)
if left == 0 then
  redis.call('DEL', g, list)
  redis.call('ZREM', keys.batches(a.tenant), a.batch)
  if mine then redis.call('DEL', ikey) end
  redis.pcall('PUBLISH', keys.note(a.batch), 'deleted')
end
return { 'ok', left, loose }
