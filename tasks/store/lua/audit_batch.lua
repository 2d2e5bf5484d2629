-- Looks through some lines of a batch that has not ended, and ends it when none of
-- them will: a line without a record, or with one that says that it was lost, has failed.
-- KEYS     see begin.lua
-- ARGV[2]  {batch, tenant; from: the line; most: lines; seen: counts of the lines before, by status; stamp: what the batch's counts were then, or "";
--          live: whether a job of it is known that is not final}
-- Returns  {"on", line to go on from, seen as JSON, stamp}, {"ended"}, {"gone"} when its record is lost, or {"well"}.
local g, list = keys.batch(a.batch), keys.lines(a.batch)
if not pcall(function()
  fitsAudit(a.tenant)
  each('HLEN', g)
  each('LLEN', list)
end) then return { 'well' } end -- of another type: it holds up none of the others
spare()
local h = redis.call('HMGET', g, 'whole', 'ended', 'queued', 'running', 'succeeded', 'canceled', 'expired', 'total', 'at', 'us')
if not h[1] then
  if redis.call('PTTL', list) ~= -1 then return { 'well' } end -- it has ended its time
  redis.call('PEXPIRE', list, ttl)
  redis.call('ZREM', keys.batches(a.tenant), a.batch)
  return { 'gone' }
end
local stamp = table.concat({ h[3] or 0, h[4] or 0, h[5] or 0, h[6] or 0, h[7] or 0 }, ' ')
local again = h[2] and (tonumber(h[3] or 0) ~= 0 or tonumber(h[4] or 0) ~= 0) -- it has ended, and counts what cannot be
if h[2] and not again or h[9] or a.live or a.stamp ~= '' and a.stamp ~= stamp then return { 'well' } end -- it moves, or will
local ids = redis.call('LRANGE', list, a.from, a.from + a.most - 1)
for _, id in ipairs(ids) do
  local j, bad = sound(id)
  if bad or j and not final(j.s) then return { 'well' } end
  if j then a.seen[j.s] = (a.seen[j.s] or 0) + 1 end
end
if #ids == a.most then return { 'on', a.from + #ids, cjson.encode(a.seen), stamp } end
local total, set, ended = tonumber(h[8] or 0), {}, 0
local sum = 0 -- of what was counted: above the total, it was counted twice
for i, status in ipairs({ 'succeeded', 'canceled', 'expired' }) do
  sum = sum + math.max(tonumber(h[4 + i] or 0), a.seen[status] or 0)
end
for i, status in ipairs({ 'succeeded', 'canceled', 'expired' }) do
  local n = a.seen[status] or 0
  if sum <= total then n = math.max(n, tonumber(h[4 + i] or 0)) end -- a line may have been deleted
  set[#set + 1], set[#set + 2] = status, n
  ended = ended + n
end
if again then
  redis.call('HSET', g, 'queued', 0, 'running', 0, 'failed', math.max(0, total - ended), unpack(set))
  return { 'well' }
end
redis.call('HSET', g, 'queued', 0, 'running', 0, 'failed', math.max(0, total - ended), 'ended', now, unpack(set))
redis.call('PEXPIRE', g, ttl)
redis.call('PEXPIRE', list, ttl)
redis.pcall('PUBLISH', keys.note(a.batch), 'ended')
tell(a.tenant, 'batch.completed', a.batch, 'evt_b' .. string.sub(a.batch, 7) .. '_' .. string.format('%d', now), nil, '', nil, h[10])
return { 'ended' }
