-- Looks through the next jobs of a list, from its end, for those that a filter lets
-- through. What decides is read here: a rare filter over many jobs sends their ids alone.
-- KEYS     see begin.lua
-- ARGV[2]  {n: jobs to look at; batch, line: of its lines from that index down; where
--          batch is '', tenant, from, low: of the tenant's between these two of
--          ZREVRANGEBYLEX; index: true for the tenant's between these that the index of metadata
--          has; then what the filter asks: statuses: a set, {} for any; model, pool: '' for any;
--          since, till: ms, 0 for any; metadata: pairs; pairs: by their names, what stands for each where it is sealed, or ""}
-- Returns  {how many were looked at, the last of them or '', those let through, ...}.
local ids = {}
if a.index then
  -- Of several pairs the one that the fewest jobs have.
  local fewest, of
  for name, value in pairs(a.metadata) do
    local either, many = { mark(name .. '\0' .. value) }, 0
    if a.pairs[name] ~= '' then either[2] = mark(a.pairs[name]) end
    for _, m in ipairs(either) do many = many + redis.call('ZLEXCOUNT', keys.marked(a.tenant), '[' .. m, '(' .. m .. '\255') end
    if not fewest or many < fewest then fewest, of = many, either end
  end
  for _, begins in ipairs(of) do
    local from = '(' .. begins .. (a.from == '+' and '\255' or string.sub(a.from, 2))
    local low = '[' .. begins .. (a.low == '-' and '' or string.sub(a.low, 2))
    for _, m in ipairs(redis.call('ZREVRANGEBYLEX', keys.marked(a.tenant), from, low, 'LIMIT', 0, a.n)) do
      local id = string.sub(m, 9)
      ids[#ids + 1] = id
      if redis.call('EXISTS', keys.job(id)) == 0 then redis.call('ZREM', keys.marked(a.tenant), m) end -- another release has deleted it
    end
  end
  -- What is sealed and what is not stand apart there: of both the newest.
  if of[2] then
    table.sort(ids, function(x, y) return x > y end)
    for i = #ids, a.n + 1, -1 do ids[i] = nil end
  end
elseif a.batch ~= '' then
  local up = a.line < 0 and {} or redis.call('LRANGE', keys.lines(a.batch), math.max(0, a.line - a.n + 1), a.line)
  for i = #up, 1, -1 do
    ids[#ids + 1] = up[i]
  end
else
  ids = redis.call('ZREVRANGEBYLEX', keys.jobs(a.tenant), a.from, a.low, 'LIMIT', 0, a.n)
end

-- matches reports whether what never changes about a job is what the filter asks.
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
  local j = redis.call('HMGET', key, 's', 'p', 'ct', 't', 'c')
  local created = tonumber(j[3] or 0)
  if j[1] and (not a.index or j[4] == a.tenant and (a.batch == '' or j[5] == a.batch)) and not (user and foreign(a.tenant, j[4], key)) and (not some or a.statuses[j[1]]) and (a.pool == '' or j[2] == a.pool)
    and created >= a.since and (a.till == 0 or created < a.till)
    and (not deep or matches(cjson.decode(redis.call('HGET', key, 'e')))) then
    out[#out + 1] = id
  end
end
return out
