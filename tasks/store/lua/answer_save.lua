-- Keeps the first answer under an Idempotency-Key, unless what it stands for was forgotten meanwhile.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; key: see reserved; id: of the job or batch}
-- ARGV[3]  answer
-- Returns  1, or 0 when it is not kept.
local ikey = keys.idempotency(a.tenant, (reserved(a.tenant, a.key)))
if redis.call('HGET', ikey, 'id') ~= a.id then return 0 end
return redis.call('HSETNX', ikey, 'ans', ARGV[3])
