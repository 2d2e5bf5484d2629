-- Adds to what a running call with a stream has brought.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence, call; offset: in bytes; ends: "-", or how they end; keep (ms)}
-- ARGV[3]  events, as they came
-- Returns  1, or 0 when the caller has lost the job, or what came before is gone.
local j = load(a.id)
if not j or j.s ~= 'running' or j.f ~= a.fence then return 0 end
lasting()
local key, call = keys.events(j.id), string.format('%08d', a.call)
if redis.call('GETRANGE', key, 0, 7) ~= call then
  if a.offset > 0 then return 0 end
  redis.call('SET', key, call .. '-')
end
local has = redis.call('STRLEN', key) - 9
if has < a.offset then return 0 end
if has == a.offset then redis.call('APPEND', key, ARGV[3]) end -- else it is here already: the answer was lost
if a.ends ~= '-' then redis.call('SETRANGE', key, 8, a.ends) end
redis.call('PEXPIRE', key, a.keep)
redis.pcall('PUBLISH', keys.note(j.id), 'text')
return 1
