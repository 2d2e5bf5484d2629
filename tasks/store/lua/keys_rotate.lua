-- Replaces signing keys; the old ones sign too for a while.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant; endpoint: "" for the tenant's own; secret; private: key or ""; keep: ms that the old ones go on;
--          leave: true to leave keys that are there}
-- Returns  "ok", "gone", or "leaving" when the tenant is being deleted.
local said = answered()
if said then return said end
local key = keys.secrets(a.tenant)
if a.endpoint ~= '' then
  key = keys.endpoint(a.endpoint)
  if foreign(a.tenant, redis.call('HGET', key, 't'), key) then return 'gone' end
end
if closed(a.tenant) then return 'leaving' end
local h = redis.call('HMGET', key, 'k', 'a')
if h[1] == a.secret or (h[1] and a.leave) then return 'ok' end
answer('ok')
if h[1] then redis.call('HSET', key, 'k2', h[1], 'a2', h[2] or '', 'x2', now + a.keep) end
redis.call('HSET', key, 'k', a.secret, 'a', a.private)
return 'ok'
