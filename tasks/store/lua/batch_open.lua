-- Begins a batch and reserves its Idempotency-Key.
-- KEYS     see begin.lua
-- ARGV[2]  {op: names this opening; batch, tenant; key: Idempotency-Key or "", see reserved; stale: ms until an abandoned one is swept;
--          silent: ms after which another writer may have the key; most: batches of a tenant being written; weight: the
--          tenant's, and its places, see weigh}
-- Returns  {"new", created ms}, {"busy"}, {"prior", fingerprint, id, answer, lines}, {"taken"}, {"many"}, {"leaving"} of a tenant that is being deleted, or {"stale"} when a
--          writer of this batch has gone and what it wrote is to be forgotten first.
local mine = keys.staged(a.tenant)
sorted(keys.staging(), mine)
lasting()
if closed(a.tenant) then return { 'leaving' } end
if a.key ~= '' then a.key = reserved(a.tenant, a.key) end
local g = keys.batch(a.batch)
local h = redis.call('HMGET', g, 't', 'whole', 'total', 'w')
if h[1] and h[4] ~= a.op then -- of another writer
  if foreign(a.tenant, h[1], g) then return { 'taken' } end
  if h[2] then return { 'prior', '', a.batch, '', tonumber(h[3]) } end
  local sweep = redis.call('ZSCORE', keys.staging(), a.batch)
  if sweep and sweep - a.stale + a.silent > now then return { 'busy' } end
  return { 'stale' }
end
if a.key ~= '' then
  local ikey = keys.idempotency(a.tenant, a.key)
  local seen = redis.call('HMGET', ikey, 'fp', 'id', 'ans', 'busy')
  if seen[1] then return { 'prior', seen[1], seen[2], seen[3] or '', 0 } end
  if seen[4] and seen[4] ~= a.batch then -- its own: the same opening, sent again
    -- A writer that died can neither go on nor give its key back. One that was
    -- only slow finds the key lost when it commits.
    local sweep = redis.call('ZSCORE', keys.staging(), seen[4])
    if sweep and sweep - a.stale + a.silent > now then return { 'busy' } end
  end
end
if redis.call('ZCARD', mine) >= a.most and not redis.call('ZSCORE', mine, a.batch) then
  for _, id in ipairs(redis.call('ZRANGE', mine, 0, -1)) do -- should another release have ended one
    if not redis.call('ZSCORE', keys.staging(), id) then redis.call('ZREM', mine, id) end
  end
  if redis.call('ZCARD', mine) >= a.most then return { 'many' } end
end
if a.key ~= '' then
  local ikey = keys.idempotency(a.tenant, a.key)
  redis.call('HSET', ikey, 'busy', a.batch)
  redis.call('PEXPIRE', ikey, a.stale)
end
weigh(a.tenant, a.weight)
redis.call('HSET', g, 't', a.tenant, 'ct', now, 'i', a.key, 'w', a.op)
if user then redis.call('HSET', g, 'us', user) end
redis.call('ZADD', keys.staging(), now + a.stale, a.batch)
redis.call('ZADD', mine, 0, a.batch)
return { 'new', now }
