-- Reserves an Idempotency-Key for a call that makes no job and no batch, or frees it again.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; key, fingerprint: see reserved; id: names the call; silent: ms after which another may have the key of
--          one that has not answered; keep: ms; free: true to free it, unless its answer is kept}
-- Returns  {"ok"}, {"busy"}, {"reused", id}, {"replay", answer, the id of the call that it was the answer to}, or {"leaving"} of a
--          tenant that is being deleted.
local key, fingerprint = reserved(a.tenant, a.key, a.fingerprint)
local ikey = keys.idempotency(a.tenant, key)
local seen = redis.call('HMGET', ikey, 'fp', 'id', 'ans', 'busy', 'at')
if a.free then
  if seen[2] == a.id and not seen[3] then redis.call('DEL', ikey) end
  return { 'ok' }
end
if closed(a.tenant) then return { 'leaving' } end
if seen[4] then return { 'busy' } end
if seen[1] and seen[2] ~= a.id then
  if seen[1] ~= fingerprint then return { 'reused', seen[2] } end
  if seen[3] then return { 'replay', seen[3], seen[2] } end
  if tonumber(seen[5] or 0) + a.silent > now then return { 'busy' } end
end
lasting()
redis.call('HSET', ikey, 'fp', fingerprint, 'id', a.id, 'at', now)
redis.call('PEXPIRE', ikey, a.keep)
return { 'ok' }
