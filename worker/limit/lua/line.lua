-- line: processes wait in order for a concurrency slot (WAITING), each with the
-- call that it wants to send next (WANTS):
--
--   field     unit    meaning
--   key       text    of the reservation
--   class     text    see learn.lua
--   estimate  tokens  of its input, 0: none
--   max       tokens  of its output, 0: no cap

-- stand_in_line puts the caller into the line for a concurrency slot, with what it wants.
local function stand_in_line(call)
  if not redis.call('ZSCORE', WAITING, a.holder) then
    s.last_place = s.last_place + 1
    redis.call('ZADD', WAITING, s.last_place, a.holder)
  end
  redis.call('HSET', WANTS, a.holder, packed(call))
end

-- hand_over gives what is free to those in line, in order: to the caller in
-- `handed`, to others by message. So a wait for concurrency costs one call.
local handed = {}
local function hand_over()
  while now >= s.hold_until and (a.concurrency <= 0 or in_flight < a.concurrency) do
    local w = redis.call('ZRANGE', WAITING, 0, 0)[1]
    if not w then return end
    local want = redis.call('HGET', WANTS, w)
    redis.call('ZREM', WAITING, w)
    redis.call('HDEL', WANTS, w)
    local lease = redis.call('ZSCORE', HOLDERS, w)
    if want and lease and tonumber(lease) > now then
      local call = unpacked(want)
      local status, wait = reserve(w, call)
      local say = string.format('%s %.0f %s', status, micros(wait), call.key)
      if w == a.holder then
        handed[#handed + 1] = say
      else
        redis.pcall('PUBLISH', a.channel, w .. ' ' .. s.epoch .. ' ' .. say)
      end
    end
  end
end

local function renew_lease()
  redis.call('ZADD', HOLDERS, now + a.lease, a.holder)
end
