-- Keeps a document, in place of the one of the same id, and its content as long as it.
-- KEYS     see begin.lua
-- ARGV[2]  {id, tenant, kind; keep: ms; list: ms that the list of the tenant's documents is kept}
-- ARGV[3]  its body
-- Returns  {"ok"}, or {"leaving"} of a tenant that is being deleted.
local key, list = keys.document(a.id), keys.documents(a.kind, a.tenant)
each('HLEN', key)
sorted(keys.contents(), list)
lasting()
if closed(a.tenant) then return { 'leaving' } end
redis.call('HSET', key, 't', a.tenant, 'k', a.kind, 'd', ARGV[3])
if user then redis.call('HSET', key, 'us', user) end
redis.call('PEXPIRE', key, a.keep)
redis.call('PEXPIRE', keys.content(a.id), a.keep)
redis.call('ZADD', keys.contents(), 'XX', now + a.keep, a.id)
redis.call('ZADD', list, 0, a.id)
redis.call('PEXPIRE', list, a.list)
return { 'ok' }
