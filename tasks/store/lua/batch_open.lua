-- Begins a batch and reserves its Idempotency-Key.
-- KEYS     see begin.lua
-- ARGV[2]  {batch, tenant; key: Idempotency-Key or ""; stale: ms until an abandoned one is swept;
--          silent: ms after which another writer may have the key; weight: the tenant's}
-- Returns  {"new", created ms}, {"busy"} or {"prior", fingerprint, id, answer}.
if a.key ~= '' then
  local ikey = keys.idempotency(a.tenant, a.key)
  local seen = redis.call('HMGET', ikey, 'fp', 'id', 'ans', 'busy')
  if seen[1] then return { 'prior', seen[1], seen[2], seen[3] or '' } end
  if seen[4] and seen[4] ~= a.batch then -- its own: the same opening, sent again
    -- A writer that died can neither go on nor give its key back. One that was
    -- only slow finds the key lost when it commits.
    local sweep = redis.call('ZSCORE', keys.staging(), seen[4])
    if sweep and sweep - a.stale + a.silent > now then return { 'busy' } end
  end
  redis.call('HSET', ikey, 'busy', a.batch)
  redis.call('PEXPIRE', ikey, a.stale)
end
weigh(a.tenant, a.weight)
redis.call('HSET', keys.batch(a.batch), 't', a.tenant, 'ct', now, 'i', a.key)
redis.call('ZADD', keys.staging(), now + a.stale, a.batch)
return { 'new', now }
