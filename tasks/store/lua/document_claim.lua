-- Keeps a document where there is none of its id.
-- KEYS     see begin.lua
-- ARGV[2]  {id, tenant, kind; keep: ms}
-- ARGV[3]  its body
-- Returns  the body of the one that is there already, or "".
local key = keys.document(a.id)
redis.call('EXISTS', key)
local there = redis.call('HGET', key, 'd')
if there then return there end
redis.call('HSET', key, 't', a.tenant, 'k', a.kind, 'd', ARGV[3])
redis.call('PEXPIRE', key, a.keep)
return ''
