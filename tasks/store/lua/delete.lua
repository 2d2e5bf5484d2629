-- The caller has a finished job forgotten.
-- KEYS[1] prefix; ARGV[1] id, ARGV[2] tenant
-- Returns "ok", "gone" or "conflict".
spare()
local j = load(ARGV[1])
if not j or j.t ~= ARGV[2] then return 'gone' end
if not final(j.s) then return 'conflict' end
forget(j.t, j.id, 'deleted')
redis.pcall('PUBLISH', keys.note(j.id), 'deleted')
return 'ok'
