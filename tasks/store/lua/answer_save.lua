-- Keeps the first answer under an Idempotency-Key, unless what it stands for was forgotten meanwhile.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] key, ARGV[3] id of the job or batch, ARGV[4] answer
-- Returns 1, or 0 when it is not kept.
local ikey = keys.idempotency(ARGV[1], ARGV[2])
if redis.call('HGET', ikey, 'id') ~= ARGV[3] then return 0 end
return redis.call('HSETNX', ikey, 'ans', ARGV[4])
