-- Accepts a batch: one write, after which every line of it will run.
-- KEYS[1] prefix; ARGV[1] batch, ARGV[2] fingerprint, ARGV[3] most waiting jobs or 0, ARGV[4] idempotency ttl ms,
-- ARGV[5] most tokens a day or 0
-- Returns {"ok", tenant}, {"full", waiting}, {"spent", tokens left, ms until midnight UTC}, {"gone"}, or {"lost"} when
-- another writer has taken its key meanwhile.
local g = keys.batch(ARGV[1])
local h = redis.call('HMGET', g, 't', 'i', 'whole', 'q')
if h[3] then return { 'ok', h[1] } end -- accepted already: the same commit, sent again
if not redis.call('ZSCORE', keys.staging(), ARGV[1]) then return { 'gone' } end
if h[2] ~= '' and redis.call('HGET', keys.idempotency(h[1], h[2]), 'busy') ~= ARGV[1] then return { 'lost' } end
local total = redis.call('LLEN', keys.lines(ARGV[1]))
local waiting = tonumber(redis.call('HGET', keys.waiting(), h[1]) or 0)
if tonumber(ARGV[3]) > 0 and waiting + total > tonumber(ARGV[3]) then return { 'full', waiting } end
local spent = take(h[1], tonumber(h[4] or 0), tonumber(ARGV[5]))
if spent then return spent end
redis.call('HSET', g, 'total', total, 'queued', total, 'whole', 1, 'at', 0, 'qd', today)
redis.call('HINCRBY', keys.waiting(), h[1], total)
redis.call('ZREM', keys.staging(), ARGV[1])
redis.call('ZADD', keys.unfolding(), now + 5000, ARGV[1])
if h[2] ~= '' then
  local ikey = keys.idempotency(h[1], h[2])
  redis.call('HSET', ikey, 'fp', ARGV[2], 'id', ARGV[1])
  redis.call('HDEL', ikey, 'busy')
  redis.call('PEXPIRE', ikey, ARGV[4])
end
return { 'ok', h[1] }
