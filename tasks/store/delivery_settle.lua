-- Attempts at deliveries have ended.
-- KEYS[1] prefix; ARGV[1] depth, ARGV[2] lease ms, ARGV[3] result ttl ms, ARGV[4] ms of failure after which an
-- endpoint is disabled, then for each delivery 9 values: id, fence, status, counted "1" or "", delay ms, outcome,
-- line of the log, body or "", disable "1" or ""
-- Returns tickets: id and fence in turn.
spare()
local tickets = {}
for a = 5, #ARGV, 9 do
  local id, status, counted, outcome = ARGV[a], ARGV[a + 2], ARGV[a + 3] == '1', ARGV[a + 5]
  local d = P .. 'd:' .. id
  local h = redis.call('HMGET', d, 'f', 'l', 'w', 'log', 's')
  if h[1] == ARGV[a + 1] and h[5] == 'pending' and wland(id, h[2]) then
    local lane, wh = h[2], h[3] and P .. 'wh:' .. h[3]
    if counted then
      local log = (h[4] or '') .. ARGV[a + 6] .. '\n'
      while #log > 16384 do
        local cut = string.find(log, '\n', 1, true)
        if not cut or cut == #log then break end
        log = string.sub(log, cut + 1)
      end
      redis.call('HINCRBY', d, 'n', 1)
      redis.call('HSET', d, 'log', log)
      if ARGV[a + 7] ~= '' then redis.call('HSETNX', d, 'b', ARGV[a + 7]) end
    end
    if status == 'pending' then
      redis.call('HSET', d, 'due', now + ARGV[a + 4])
      redis.call('ZADD', P .. 'wdue', now + ARGV[a + 4], id)
    else
      redis.call('HSET', d, 's', status, 'fin', now, 'why', outcome)
      redis.call('HDEL', d, 'due')
      -- A large body has served, and can be built again.
      if status == 'delivered' and redis.call('HSTRLEN', d, 'b') > 4096 then redis.call('HDEL', d, 'b') end
    end
    if status == 'delivered' then
      redis.call('ZREM', P .. 'wbad', lane)
      if wh then redis.call('HDEL', wh, 'bad') end
    elseif counted then
      redis.call('ZADD', P .. 'wbad', now, lane)
      if wh and redis.call('EXISTS', wh) == 1 then
        redis.call('HSETNX', wh, 'bad', now)
        if ARGV[a + 8] == '1' or now - redis.call('HGET', wh, 'bad') >= tonumber(ARGV[4]) then
          wdisable(h[3], outcome, tonumber(ARGV[3]))
        end
      end
    end
    wline(lane)
  end
end
wclaim(tonumber(ARGV[1]), tonumber(ARGV[2]), tickets)
return tickets
