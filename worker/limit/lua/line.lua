-- stand_in_line puts a holder into the line for a concurrency slot, with what it wants.
local function stand_in_line(holder, key, class, est, max)
  if not redis.call('ZSCORE', WAITING, holder) then
    s.last_place = s.last_place + 1
    redis.call('ZADD', WAITING, s.last_place, holder)
  end
  redis.call('HSET', WANTS, holder, packed({key = key, estimate = est, max = max, class = class}))
end

-- hand_over gives what is free to those in line, in order: to the caller in
-- `handed`, to others by message. So a wait for concurrency costs one call.
local handed = {}
local function hand_over()
  while now >= s.hold_until and (s.concurrency <= 0 or in_flight < s.concurrency) do
    local w = redis.call('ZRANGE', WAITING, 0, 0)[1]
    if not w then return end
    local want = redis.call('HGET', WANTS, w)
    redis.call('ZREM', WAITING, w)
    redis.call('HDEL', WANTS, w)
    local lease = redis.call('ZSCORE', HOLDERS, w)
    if want and lease and tonumber(lease) > now then
      want = unpacked(want)
      local key = want.key
      local status, wait = reserve(w, key, want.class, want.estimate, want.max)
      local say = table.concat({status, string.format('%.6f', wait), key}, ' ')
      if w == me then
        handed[#handed + 1] = say
      else
        redis.call('PUBLISH', CHANNEL, w .. ' ' .. s.epoch .. ' ' .. say)
      end
    end
  end
end

local function renew_lease()
  redis.call('ZADD', HOLDERS, now + LEASE, me)
end
