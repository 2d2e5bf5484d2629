-- Lists those of a tenant's batches that have not ended, or whose counts cannot be,
-- some at a time.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; from: "+" or "(" and the id before; most: batches}
-- Returns  {last id, or "" at the end; ids}.
local ids = redis.pcall('ZREVRANGEBYLEX', keys.batches(a.tenant), a.from, '-', 'LIMIT', 0, a.most)
if ids.err then return { '', {} } end -- of another type: the other tenants go on
local open = {}
for _, id in ipairs(ids) do
  local h = redis.pcall('HMGET', keys.batch(id), 'whole', 'ended', 'at', 'queued', 'running')
  local odd = not h.err and h[2] and (h[4] ~= '0' and h[4] or h[5] ~= '0' and h[5])
  if not h.err and not h[3] and (odd or not h[2] and (h[1] or redis.call('PTTL', keys.lines(id)) == -1)) then open[#open + 1] = id end
end
return { #ids < a.most and '' or ids[#ids], open }
