-- Looks through the next jobs of a list, from its end, for those that a filter lets
-- through. What decides is read here: a rare filter over many jobs sends their ids alone.
-- KEYS     see begin.lua
-- ARGV[2]  {n: jobs to look at; batch, line: of its lines from that index down; where
--          batch is '', tenant, from, low: of the tenant's between these two of
--          ZREVRANGEBYLEX; then what the filter asks: statuses: a set, {} for any; model, pool: '' for any;
--          since, till: ms, 0 for any; metadata: pairs; pairs: by their names, what stands for each where it is sealed, or ""}
-- Returns  {how many were looked at, the last of them or '', those let through, ...}.
local ids = {}
if a.batch ~= '' then
  local up = a.line < 0 and {} or redis.call('LRANGE', keys.lines(a.batch), math.max(0, a.line - a.n + 1), a.line)
  for i = #up, 1, -1 do
    ids[#ids + 1] = up[i]
  end
else
  ids = redis.call('ZREVRANGEBYLEX', keys.jobs(a.tenant), a.from, a.low, 'LIMIT', 0, a.n)
end

-- fits reports whether what never changes about a job is what the filter asks.
local function matches(envelope)
  if a.model ~= '' and envelope.m ~= a.model then return false end
  for name, value in pairs(a.metadata) do
    if type(envelope.md) == 'string' then
      local has = false
      for _, pair in ipairs(envelope.mp or {}) do has = has or pair == a.pairs[name] end
      if not has then return false end
    elseif not envelope.md or envelope.md[name] ~= value then
      return false
    end
  end
  return true
end

local out = { #ids, ids[#ids] or '' }
local some = next(a.statuses)
local deep = a.model ~= '' or next(a.metadata)
for _, id in ipairs(ids) do
  local key = keys.job(id)
  local j = redis.call('HMGET', key, 's', 'p', 'ct')
  local created = tonumber(j[3] or 0)
  if j[1] and (not some or a.statuses[j[1]]) and (a.pool == '' or j[2] == a.pool)
    and created >= a.since and (a.till == 0 or created < a.till)
    and (not deep or matches(cjson.decode(redis.call('HGET', key, 'e')))) then
    out[#out + 1] = id
  end
end
return out
