-- Adds a chunk to the content of a document that is to come, and counts its bytes to its
-- tenant until the content is dropped or its time is over.
-- KEYS     see begin.lua
-- ARGV[2]  {id, tenant; op: names this chunk, which sent again after a lost answer is added once; bytes: of the chunk; widest: most bytes of its tenant's bodies, or 0; lies: the chunk lies elsewhere;
--          keep: ms that content is kept without its document}
-- ARGV[3]  the chunk, or where it lies
-- Returns  {"ok"}, {"heavy", bytes that the tenant has}, or {"leaving"} when it is being deleted
local list, held = keys.content(a.id), keys.stock(a.id)
redis.call('EXISTS', list)
redis.call('LLEN', list)
if redis.call('HGET', held, 'o') == a.op then return { 'ok' } end
sorted(keys.contents())
if closed(a.tenant) then return { 'leaving' } end
local refusal = heavy(a.tenant, a.bytes, a.widest > 0 and a.widest or 1 / 0)
if refusal then return refusal end
redis.call('RPUSH', list, ARGV[3])
redis.call('PEXPIRE', list, a.keep)
redis.call('HSET', held, 't', a.tenant, 'o', a.op)
redis.call('HINCRBY', held, 'n', a.bytes)
if a.lies then redis.call('HSET', held, 'r', 1) end
redis.call('ZADD', keys.contents(), now + a.keep, a.id)
weighs(a.tenant, a.bytes)
return { 'ok' }
