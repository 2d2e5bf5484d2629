-- Goes over keys as Redis has them, and deletes what stands in no list of a tenant that is being deleted: its Idempotency-Keys and
-- its calls.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant, cursor; at: the deletion's, see Returns; most: keys, about; patience: see tenant_close.lua}
-- Returns  the cursor to go on from, "0" at the end, "over" when that deletion is.
sorted(keys.leaving())
local under = redis.call('HMGET', keys.departure(a.tenant), 'at', 'over')
if under[1] ~= a.at or under[2] then return 'over' end
local found = redis.call('SCAN', a.cursor, 'MATCH', '*:' .. a.tenant .. ':*', 'COUNT', a.most)
spare()
redis.call('ZADD', keys.leaving(), 'XX', now + a.patience, a.tenant)
for _, begins in ipairs({ keys.idempotency(a.tenant, ''), keys.calls(a.tenant, '') }) do
  for _, key in ipairs(found[2]) do
    if string.sub(key, 1, #begins) == begins then redis.call('DEL', key) end
  end
end
return found[1]
