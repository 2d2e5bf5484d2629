-- Makes the key of a tenant, where there is none.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant, id: of the key; master: the name of the master key that wraps it}
-- ARGV[3]  the key, wrapped
-- Returns  {id, master, wrapped} of the one that is there then, or {"leaving"} when there is none, and the tenant is being deleted.
local key = keys.sealKey(a.tenant)
each('HLEN', keys.sealKeys())
local there = redis.call('HMGET', key, 'id', 'm', 'w')
if there[1] then return there end
if closed(a.tenant) then return { 'leaving' } end
redis.call('HSET', key, 'id', a.id, 'm', a.master, 'w', ARGV[3])
redis.call('HSET', keys.sealKeys(), a.tenant, a.id)
return { a.id, a.master, ARGV[3] }
