-- Deletes the key of a tenant.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; at: of the deletion of the tenant that this is a part of, see tenant_close.lua; "": of none}
-- Returns  1, or -1 when that deletion is over.
each('HLEN', keys.sealKey(a.tenant), keys.sealKeys())
local under = redis.call('HMGET', keys.departure(a.tenant), 'at', 'over')
if a.at ~= '' and (under[1] ~= a.at or under[2]) then return -1 end
redis.call('DEL', keys.sealKey(a.tenant))
redis.call('HDEL', keys.sealKeys(), a.tenant)
return 1
