-- Accepts a batch: one write, after which every line of it will run.
-- KEYS     see begin.lua
-- ARGV[2]  {batch, fingerprint; dialect: of all its pools, or ""; lines: that were written, or 0; most: waiting jobs, or 0; daily: most tokens a day, or 0; budget: most money a day, or 0; own: of its user the same, see admit, or nil;
--          keep: ms that an Idempotency-Key is remembered; digest: of what is asked, "" for one that repeats none without
--          a key; again: its caller has sent it before; kept: ms that a repeat finds the first; lease: see call_open.lua}
-- Returns  {"ok", tenant}, {"repeat", id of the batch that this one repeats, "1" when an answer was sent for it}, {"full", waiting}, {"spent", tokens left, ms until midnight UTC}, {"broke", money left, ms until midnight UTC, that midnight}, of its user's own limits "user full" and so on, {"gone"}, {"leaving"} when its tenant is being deleted, or {"lost"} when
-- another writer has taken its key meanwhile.
local g = keys.batch(a.batch)
local h = redis.call('HMGET', g, 't', 'i', 'whole', 'q', 'qm', 'us')
if h[3] then return { 'ok', h[1] } end -- accepted already: the same commit, sent again
if not redis.call('ZSCORE', keys.staging(), a.batch) then return { 'gone' } end
if closed(h[1]) then return { 'leaving' } end
if h[2] ~= '' and redis.call('HGET', keys.idempotency(h[1], h[2]), 'busy') ~= a.batch then return { 'lost' } end

-- A repeat finds the batch of the call before, first one whose answer was not sent. The
-- call before may also come last, when it was held up: then it finds its repeat's.
local digest = h[6] and '\0' .. h[6] .. '\0' .. a.digest or a.digest -- a user repeats nobody else's
local calls, sent = keys.calls(h[1], digest), 10000000000000 -- see call_open.lua
local function made(from, to, match)
  for _, id in ipairs(a.digest ~= '' and redis.call('ZRANGEBYSCORE', calls, from, to) or {}) do
    local b = redis.call('HMGET', keys.batch(id), 'whole', 'rp')
    if b[1] and match(b[2]) then return id end
  end
end
if a.again then
  local function any() return true end
  local there = made(now - a.kept, '(' .. sent, any)
  local before = not there and made(sent + now - a.kept, '+inf', any)
  if there or before then return { 'repeat', there or before, before and '1' or '' } end
else
  local begun = tonumber(redis.call('HGET', g, 'ct'))
  local function mine(of) return of == '1' or of == a.batch end
  local late = made(begun, '(' .. sent, mine) or made(sent + begun, '+inf', mine)
  if late then
    redis.call('HSET', keys.batch(late), 'rp', a.batch)
    return { 'repeat', late, '1' }
  end
end
local total = redis.call('LLEN', keys.lines(a.batch))
if a.lines > 0 and total ~= a.lines then return { 'gone' } end -- a commit of a writer that has given up
sorted(keys.batches(h[1]), keys.unfolding(), keys.staged(h[1]))
lasting()
local refusal = admit(h[1], h[6] or nil, total, tonumber(h[4] or 0), a.most, a.daily, 0, 0, tonumber(h[5] or 0), a.budget, a.own) -- its bytes are counted
if refusal then return refusal end
redis.call('HSET', g, 'total', total, 'queued', total, 'whole', 1, 'at', 0, 'qd', today)
if a.dialect ~= '' then redis.call('HSET', g, 'dl', a.dialect) end
redis.call('ZREM', keys.staging(), a.batch)
redis.call('ZREM', keys.staged(h[1]), a.batch)
-- For each batch that comes, those whose record has ended its time go from the list's
-- beginning, two at most.
local list = keys.batches(h[1])
for _, id in ipairs(redis.call('ZRANGE', list, 0, 1)) do
  if redis.call('EXISTS', keys.batch(id)) == 0 then redis.call('ZREM', list, id) end
end
redis.call('ZADD', list, 0, a.batch)
redis.call('ZADD', keys.unfolding(), now + 5000, a.batch)
if a.digest ~= '' then
  redis.call('ZREMRANGEBYSCORE', calls, '-inf', '(' .. (now - a.kept))
  redis.call('ZREMRANGEBYSCORE', calls, sent, '(' .. (sent + now - a.kept))
  redis.call('ZADD', calls, now, a.batch)
  redis.call('PEXPIRE', calls, a.kept + a.lease)
  if a.again then redis.call('HSET', g, 'rp', 1) end
end
if h[2] ~= '' then
  local ikey = keys.idempotency(h[1], h[2])
  redis.call('HSET', ikey, 'fp', a.fingerprint, 'id', a.batch)
  redis.call('HDEL', ikey, 'busy')
  redis.call('PEXPIRE', ikey, a.keep)
end
return { 'ok', h[1] }
