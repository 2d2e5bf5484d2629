-- Replaces signing keys; the old ones sign too for a while.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] endpoint or "" for the tenant's own, ARGV[3] secret, ARGV[4] private key or "",
-- ARGV[5] ms that the old ones go on, ARGV[6] "1" to leave keys that are there
-- Returns "ok" or "gone".
local key = keys.secrets(ARGV[1])
if ARGV[2] ~= '' then
  key = keys.endpoint(ARGV[2])
  if redis.call('HGET', key, 't') ~= ARGV[1] then return 'gone' end
end
local h = redis.call('HMGET', key, 'k', 'a')
if h[1] == ARGV[3] or (h[1] and ARGV[6] == '1') then return 'ok' end
if h[1] then redis.call('HSET', key, 'k2', h[1], 'a2', h[2] or '', 'x2', now + ARGV[5]) end
redis.call('HSET', key, 'k', ARGV[3], 'a', ARGV[4])
return 'ok'
