-- others counts the processes that live and make calls of this pool, but the caller.
-- KEYS     see lib.lua
-- ARGV[2]  {holder, alive; gone: 1 when the caller is one no longer; gen, slow (ms), audit_max}
-- Returns  their number
if a.gone == 1 then redis.call('HDEL', KEYS[3], 'p|' .. a.holder) end
return answer((others()))
