-- Attempts at deliveries have ended.
-- KEYS[1] prefix; ARGV[1] depth, ARGV[2] lease ms, ARGV[3] result ttl ms, ARGV[4] ms of failure after which an
-- endpoint is disabled, then for each delivery 9 values: id, fence, status, counted "1" or "", delay ms, outcome,
-- line of the log, body when none is kept yet or "", disable "1" or ""
-- Returns tickets: id and fence in turn.
spare()
local tickets, landed, healed = {}, {}, {}
for a = 5, #ARGV, 9 do
  local id, status, counted, outcome, body = ARGV[a], ARGV[a + 2], ARGV[a + 3] == '1', ARGV[a + 5], ARGV[a + 7]
  local d = keys.delivery(id)
  local h = redis.call('HMGET', d, 'f', 's', 'l', 'w', 'n', 'log', 'gone')
  if h[1] == ARGV[a + 1] and h[2] == 'pending' and redis.call('ZREM', keys.sending(), id) == 1 then
    local lane, wh, set = h[3], h[4] and keys.endpoint(h[4]), {}
    local function put(k, v) set[#set + 1] = k; set[#set + 1] = v end
    landed[lane] = (landed[lane] or 0) + 1
    if counted then
      local log = (h[6] or '') .. (h[7] and unquoted(ARGV[a + 6]) or ARGV[a + 6]) .. '\n'
      while #log > 16384 do
        local cut = string.find(log, '\n', 1, true)
        if not cut or cut == #log then break end
        log = string.sub(log, cut + 1)
      end
      put('n', (h[5] or 0) + 1)
      put('log', log)
    end
    -- A large body that has served can be built again.
    if status == 'delivered' then
      if body == '' and redis.call('HSTRLEN', d, 'b') > 4096 then redis.call('HDEL', d, 'b') end
      if #body > 4096 then body = '' end
    end
    -- Nor is one kept whose job was forgotten, or whose endpoint, while it was on its way.
    if counted and body ~= '' and not h[7] and (not wh or redis.call('EXISTS', wh) == 1) then put('b', body) end
    if status == 'pending' then
      put('due', now + ARGV[a + 4])
      redis.call('ZADD', keys.retries(), now + ARGV[a + 4], id)
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
        if ARGV[a + 8] == '1' or now - redis.call('HGET', wh, 'bad') >= tonumber(ARGV[4]) then
          wdisable(h[4], outcome, tonumber(ARGV[3]))
        end
      end
    end
  end
end
for lane, n in pairs(landed) do
  wland(lane, n)
  wline(lane)
end
wclaim(tonumber(ARGV[1]), tonumber(ARGV[2]), tickets)
return tickets
