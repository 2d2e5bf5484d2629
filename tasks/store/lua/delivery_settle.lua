-- Attempts at deliveries have ended.
-- KEYS     see begin.lua
-- ARGV[2]  {depth, lease (ms), claim: see wclaim; failing: ms after which an endpoint is disabled}
-- ARGV[3]  and on, for each delivery: id, fence, status, counted "1" or "", delay ms, outcome, line of the log,
--          body when none is kept yet or "", disable "1" or ""
-- Returns  tickets: id and fence in turn.
each('GET', keys.claimed(a.claim))
sorted(keys.disabledHooks())
for i = 3, #ARGV, 9 do
  local h = redis.call('HMGET', keys.delivery(ARGV[i]), 't', 'w')
  if h[1] then fitsEvents(h[1]) end
  if h[2] then redis.call('HLEN', keys.endpoint(h[2])) end
end
spare()
local landed, seen, healed = {}, {}, {}
for i = 3, #ARGV, 9 do
  local id, fence, status, counted, delay, outcome, line, body, disable = unpack(ARGV, i, i + 8)
  counted = counted == '1'
  local d = keys.delivery(id)
  local h = redis.call('HMGET', d, 'f', 's', 'l', 'w', 'n', 'log', 'gone', 't')
  if h[1] == fence and h[2] == 'pending' and not seen[id] and redis.call('ZSCORE', keys.sending(), id) then
    local lane, wh, set = h[3], h[4] and keys.endpoint(h[4]), {}
    local function put(k, v) set[#set + 1] = k; set[#set + 1] = v end
    seen[id] = true
    landed[lane] = landed[lane] or { tenant = h[8] }
    table.insert(landed[lane], id)
    if counted then
      put('n', (h[5] or 0) + 1)
      put('log', wlog(h[6], h[7] and unquoted(line) or line))
    end
    -- A large body that has served can be built again.
    if status == 'delivered' then
      if body == '' and redis.call('HSTRLEN', d, 'b') > 4096 then redis.call('HDEL', d, 'b') end
      if #body > 4096 then body = '' end
    end
    -- Nor is one kept whose job was forgotten, or whose endpoint, while it was on its way.
    if counted and body ~= '' and not h[7] and (not wh or redis.call('EXISTS', wh) == 1) then put('b', body) end
    if status == 'pending' then
      put('due', now + delay)
      put('why', counted and '' or outcome)
      redis.call('ZADD', keys.retries(), now + delay, id)
    else
      put('s', status)
      put('fin', now)
      put('why', outcome)
    end
    redis.call('HSET', d, unpack(set))
    if status == 'delivered' then
      if not healed[lane] then
        redis.call('ZREM', keys.failing(), lane)
        if wh then redis.call('HDEL', wh, 'bad') end
        healed[lane] = true
      end
    elseif counted then
      healed[lane] = nil
      redis.call('ZADD', keys.failing(), now, lane)
      if wh and redis.call('EXISTS', wh) == 1 then
        redis.call('HSETNX', wh, 'bad', now)
        if disable == '1' or now - redis.call('HGET', wh, 'bad') >= a.failing then
          wdisable(h[4], outcome)
        end
      end
    end
  end
end
for lane, ids in pairs(landed) do
  wland(ids, ids.tenant, lane)
  wline(ids.tenant, lane)
end
return wclaim(a.claim, a.depth, a.lease)
