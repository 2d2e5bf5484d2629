-- record counts outcomes of calls and trips the breaker.
-- KEYS     see lib.lua
-- ARGV[2]  {goods, good_age: how many succeeded, and ms since the youngest of them was sent;
--           kind: 'bad', 'spend', 'unauthorized' or ''; age: ms since that call was sent;
--           reason, retry_after (ms), resume_at (ms, 0 for none), fp;
--           window (ms), min_calls, ratio, interval (ms), rnd [0,1), gen, slow (ms), audit_max}
-- Returns  1 when the breaker opened or its cause became graver, else 0

local function bucket()
  local tick = math.floor(now / (a.window / buckets))
  local f = 'b' .. (tick % buckets)
  local t, ok, bad = string.match(h[f] or '', '^(%d+):(%d+):(%d+)$')
  if tonumber(t) ~= tick then ok, bad = 0, 0 end
  return f, tick, tonumber(ok), tonumber(bad)
end

local function count(goods, bads)
  local f, tick, ok, bad = bucket()
  set(f, string.format('%.0f:%.0f:%.0f', tick, ok + goods, bad + bads))
end

local function totals()
  local newest = math.floor(now / (a.window / buckets))
  local oks, bads = 0, 0
  for i = 0, buckets - 1 do
    local t, ok, bad = string.match(h['b' .. i] or '', '^(%d+):(%d+):(%d+)$')
    if t and tonumber(t) > newest - buckets and tonumber(t) <= newest then
      oks = oks + tonumber(ok)
      bads = bads + tonumber(bad)
    end
  end
  return oks, bads
end

if a.goods > 0 and state() == 'closed' then
  count(a.goods, 0)
  set('last_good', now)
  -- A success that was sent before the row's first failure does not end the row:
  -- long calls go on succeeding while every new one is refused.
  if now - a.good_age > num('row_from') then set('row', 0) end
end

if a.kind == '' or now - a.age < num('counts_from') then return answer(0) end

if a.kind == 'spend' or a.kind == 'unauthorized' then
  local grave = {overload = 1, spend = 2, unauthorized = 3}
  if state() ~= 'open' or grave[a.kind] > (grave[h.cause] or 0) then
    open(a.kind, a.reason)
    return answer(1)
  end
  return answer(0)
end

if state() == 'half_open' then
  open('overload', a.reason)
  return answer(1)
end
if state() == 'open' then return answer(0) end

count(0, 1)
if num('row') == 0 then
  set('row_from', now - a.age)
  set('row_at', now)
end
set('row', num('row') + 1)

local oks, bads = totals()
local row = num('row')
local why
if oks + bads >= a.min_calls and bads >= a.ratio * (oks + bads) then
  why = string.format('%d of %d calls failed in %d s', bads, oks + bads, math.ceil(a.window / 1000))
elseif row >= a.min_calls
    or (row >= row_many and now - num('row_at') >= row_span)
    or (row >= row_few and now - num('last_good') >= row_old) then
  why = string.format('%d calls in a row failed', row)
end
if not why then return answer(0) end
if a.reason ~= '' then why = why .. ': ' .. a.reason end
open('overload', why)
return answer(1)
