-- record counts outcomes of calls, and raises a suspicion or trips the breaker.
-- KEYS     see lib.lua
-- ARGV[2]  {goods, good_age: how many succeeded, and ms since the youngest of them was sent;
--           models: of those, a list of {model, age of its youngest};
--           kind: 'bad', 'spend', 'unauthorized' or ''; age: ms since that call was sent; model;
--           job: that it was made for; raise: 1 when this failure is enough for a suspicion;
--           ask: 1 when a suspicion is looked into first, 0 when the breaker trips at once;
--           misfit: 1 when the address does not fit; org: whose key it was, '' when nobody said;
--           reason, retry_after (ms), resume_at (ms, 0 for none), fp, holder, alive;
--           window (ms), min_calls, ratio, interval, recheck (ms), rnd [0,1), gen, slow (ms), audit_max}
-- Returns  1 when the breaker opened or its cause became graver; 2 when the caller raised a
--          suspicion, and is to look into it; else 0

-- A book counts calls: the pool's is the hash itself, a model's a table.
local function put(b, f, v) if b == h then set(f, v) else b[f] = v end end
local function at(b, f) return tonumber(b[f]) or 0 end

local function bucket(b)
  local tick = math.floor(now / (a.window / buckets))
  local f = 'b' .. (tick % buckets)
  local t, ok, bad = string.match(b[f] or '', '^(%d+):(%d+):(%d+)$')
  if tonumber(t) ~= tick then ok, bad = 0, 0 end
  return f, tick, tonumber(ok), tonumber(bad)
end

local function count(b, goods, bads)
  local f, tick, ok, bad = bucket(b)
  put(b, f, string.format('%.0f:%.0f:%.0f', tick, ok + goods, bad + bads))
end

local function totals(b)
  local newest = math.floor(now / (a.window / buckets))
  local oks, bads = 0, 0
  for i = 0, buckets - 1 do
    local t, ok, bad = string.match(b['b' .. i] or '', '^(%d+):(%d+):(%d+)$')
    if t and tonumber(t) > newest - buckets and tonumber(t) <= newest then
      oks = oks + tonumber(ok)
      bads = bads + tonumber(bad)
    end
  end
  return oks, bads
end

local function succeeded(b, n, age)
  count(b, n, 0)
  put(b, 'last_good', now)
  -- A success that was sent before the row's first failure does not end the row:
  -- long calls go on succeeding while every new one is refused.
  if now - age > at(b, 'row_from') then put(b, 'row', 0) end
end

-- failed counts a failure, and returns in words what it completes, or nil.
local function failed(b)
  count(b, 0, 1)
  if at(b, 'row') == 0 then
    put(b, 'row_from', now - a.age)
    put(b, 'row_at', now)
    put(b, 'row_job', a.job or '')
    put(b, 'several', 0)
  end
  put(b, 'row', at(b, 'row') + 1)
  -- One job that fails again and again speaks against nothing but itself.
  if a.ask ~= 1 or a.job == '' or a.job ~= b.row_job then put(b, 'several', 1) end
  local oks, bads = totals(b)
  local row = at(b, 'several') == 1 and at(b, 'row') or 0
  if oks + bads >= a.min_calls and bads >= a.ratio * (oks + bads) then
    return string.format('%d of %d calls failed in %d s', bads, oks + bads, math.ceil(a.window / 1000))
  elseif row >= a.min_calls
      or (row >= row_many and now - at(b, 'row_at') >= row_span)
      or (row >= row_few and now - at(b, 'last_good') >= row_old) then
    return string.format('%d calls in a row failed', row)
  end
end

local function book(model)
  local text = redis.call('HGET', KEYS[3], 'm|' .. model)
  return text and cjson.decode(text) or {}
end
local function save(model, b)
  spare()
  redis.call('HSET', KEYS[3], 'm|' .. model, cjson.encode(b))
  redis.call('EXPIRE', KEYS[3], seen_for)
end

-- well notes that a model has succeeded, by a call sent that long ago.
local function well(model, n, age)
  local b = book(model)
  succeeded(b, n, age)
  save(model, b)
  local sick = table_of('sick')
  if sick[model] and now - age > sick[model].since then
    sick[model] = nil
    keep('sick', sick)
  end
  local known, count, oldest = table_of('known'), 0, nil
  if now - age - (known[model] or 0) < 10000 then return end
  known[model] = now - age
  for m, sent in pairs(known) do
    count = count + 1
    if not oldest or sent < known[oldest] then oldest = m end
  end
  if count > known_most then known[oldest] = nil end
  keep('known', known)
end

if (a.org or '') ~= '' then set('org', a.org) end

if a.goods > 0 then
  if state() == 'closed' then succeeded(h, a.goods, a.good_age) end
  set('worked|' .. (a.fp or ''), 1)
  for _, m in ipairs(a.models or {}) do well(m[1], m[2], m[3]) end
end

if a.kind == '' or now - a.age < num('counts_from') then return answer(0) end

if a.kind == 'spend' or a.kind == 'unauthorized' then
  local grave = {overload = 1, misfit = 1, spend = 2, unauthorized = 3}
  if state() ~= 'open' or grave[a.kind] > (grave[h.cause] or 0) then
    open(a.kind, a.reason)
    return answer(1)
  end
  return answer(0)
end

if state() == 'open' then return answer(0) end
if a.ask ~= 1 then
  if state() == 'half_open' then
    open('overload', a.reason)
    return answer(1)
  end
  local why = failed(h)
  if not why then return answer(0) end
  if a.reason ~= '' then why = why .. ': ' .. a.reason end
  open('overload', why)
  return answer(1)
end

-- Half open, the probes that are under way tell more than a job that was in hand.
-- A model that is held back is known to fail.
if state() == 'half_open' or table_of('sick')[a.model] then return answer(0) end
local b = book(a.model)
local why = failed(b)
why = failed(h) or why
save(a.model, b)
if a.raise == 1 then why = '' elseif why and a.reason ~= '' then why = why .. ': ' .. a.reason end
if not why or (h.sus or '') ~= '' or (now < num('sus_next') and a.raise ~= 1) then return answer(0) end
calm_down()
set('sus', a.model)
set('sus_at', now)
set('sus_by', a.holder)
set('sus_why', why)
set('sus_until', 0)
return answer(2)
