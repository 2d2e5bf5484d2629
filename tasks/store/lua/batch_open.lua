-- Begins a batch and reserves its Idempotency-Key.
-- KEYS[1] prefix; ARGV[1] batch, ARGV[2] tenant, ARGV[3] idempotency key or "", ARGV[4] ms until an abandoned one is swept,
-- ARGV[5] ms of silence after which another writer may have the key, ARGV[6] tenant's weight
-- Returns {"new", created ms}, {"busy"} or {"prior", fingerprint, id, answer}.
if ARGV[3] ~= '' then
  local ikey = keys.idempotency(ARGV[2], ARGV[3])
  local seen = redis.call('HMGET', ikey, 'fp', 'id', 'ans', 'busy')
  if seen[1] then return { 'prior', seen[1], seen[2], seen[3] or '' } end
  if seen[4] and seen[4] ~= ARGV[1] then -- its own: the same opening, sent again
    -- A writer that died can neither go on nor give its key back. One that was
    -- only slow finds the key lost when it commits.
    local sweep = redis.call('ZSCORE', keys.staging(), seen[4])
    if sweep and sweep - ARGV[4] + ARGV[5] > now then return { 'busy' } end
  end
  redis.call('HSET', ikey, 'busy', ARGV[1])
  redis.call('PEXPIRE', ikey, ARGV[4])
end
weigh(ARGV[2], ARGV[6])
redis.call('HSET', keys.batch(ARGV[1]), 't', ARGV[2], 'ct', now, 'i', ARGV[3])
redis.call('ZADD', keys.staging(), now + ARGV[4], ARGV[1])
return { 'new', now }
