-- The caller has a finished job forgotten.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; id, tenant}
-- Returns  {"ok", where bodies lie that are of use no more, ...}, {"gone"} or {"conflict"}.
local said = answered()
if said then return said end
local j = load(a.id)
if not j or foreign(a.tenant, j.t, j.key) then return { 'gone' } end
if not final(j.s) then return { 'conflict' } end
forget(j.t, j.id, 'deleted')
redis.pcall('PUBLISH', keys.note(j.id), 'deleted')
return answer({ 'ok', unpack(loose) })
