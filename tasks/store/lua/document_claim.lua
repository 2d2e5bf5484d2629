-- Keeps a document where there is none of its id.
-- KEYS     see begin.lua
-- ARGV[2]  {id, tenant, kind; keep: ms; list: ms that the list of the tenant's claims is kept}
-- ARGV[3]  its body
-- Returns  {"there", the body of the one that is there already}, {"ok"}, or {"leaving"} of a tenant that is being deleted.
local key, list = keys.document(a.id), keys.claims(a.tenant)
redis.call('EXISTS', key)
local there = redis.call('HGET', key, 'd')
if there then return { 'there', there } end
if closed(a.tenant) then return { 'leaving' } end
sorted(list)
redis.call('HSET', key, 't', a.tenant, 'k', a.kind, 'd', ARGV[3])
if user then redis.call('HSET', key, 'us', user) end
redis.call('PEXPIRE', key, a.keep)
redis.call('ZREMRANGEBYSCORE', list, '-inf', now)
redis.call('ZADD', list, now + a.keep, a.id)
redis.call('PEXPIRE', list, a.list)
return { 'ok' }
