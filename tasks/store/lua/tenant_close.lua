-- Begins to delete a tenant: from now on nothing of it is taken in. A repeat changes nothing until the name is anybody's again.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; patience: ms without a step after which another process goes on; settle: see tenant_open.lua; act: the line; acts, old: see act_note.lua}
-- Returns  "ok".
local d = keys.departure(a.tenant)
local h = redis.call('HMGET', d, 'at', 'over')
each('HLEN', keys.weights())
sorted(keys.leaving(), keys.acts())
spare()
if h[1] and not (h[2] and now >= h[2] + a.settle) then return 'ok' end
redis.call('DEL', d)
redis.call('HSET', d, 'at', now, 'act', a.act, 'jobs', 0, 'bat', 0, 'doc', 0, 'hook', 0, 'dlv', 0, 'tok', 0)
redis.call('HSET', keys.weights(), '\t\n' .. a.tenant, '9e15')
redis.call('ZADD', keys.leaving(), now + a.patience, a.tenant)
noted()
return 'ok'
