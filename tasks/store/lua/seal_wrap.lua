-- Puts a tenant's key that was wrapped anew in its own place.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant, id: of the key; was, master: the names of the master keys that wrapped it, and that does}
-- ARGV[3]  the key, wrapped
-- Returns  1, or 0 when another key is there, or none, or it was wrapped anew meanwhile.
local key = keys.sealKey(a.tenant)
local there = redis.call('HMGET', key, 'id', 'm')
if there[1] ~= a.id or there[2] ~= a.was then return 0 end
redis.call('HSET', key, 'm', a.master, 'w', ARGV[3])
return 1
