-- settle: replaces a reservation's expectation by what was used, then lets the
-- provider's headers correct the picture.
-- After the chapters. ARGV[13] reservation. ARGV[14] its epoch.
-- ARGV[15] how: 'used' (input and output known), 'expected' (not known),
-- 'input' (input known, the call goes on), 'back' (never charged).
-- ARGV[16] input tokens. ARGV[17] output tokens.
-- ARGV[18..20] the provider's limits a minute, ARGV[21..23] what it says remains;
-- empty: not said. ARGV[24] step to which token headers are rounded. ARGV[25] age
-- of the headers, s.
-- Returns {epoch, 1 or 0 (was there such a reservation), in flight, three levels,
-- then what was handed over to the caller: "status wait key", ...}.
catch_up()
local key, how, yin, yout = ARGV[13], ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17])
local found, own = 0, 0
local booked = ARGV[14] == s.epoch and redis.call('HGET', BOOKED, key)
if booked then
  found = 1
  local b = unpacked(booked)
  local y = {1, yin, yout}
  if how == 'back' then y = {0, 0, 0} elseif how == 'expected' then y = {1, b.input, b.output} end
  if how == 'input' then y[3] = b.output end
  local e = {1, b.input, b.output}
  for d = 1, 3 do
    if s.level[d] then s.level[d] = s.level[d] + e[d] - y[d] end
    s.used[d] = math.max(0, s.used[d] + y[d] - e[d])
  end
  if how == 'input' then
    charge(key, b)
    s.variance_in = s.variance_in - b.variance_in
    b.input, b.variance_in = yin, 0
    write(key, b)
  else
    drop(key, b)
    if how == 'used' then
      learn(b, yin, yout)
      own = yout
      s.ended_out = s.ended_out + yout
    end
  end
end

-- The observer. A limit is taken over when it is said; upwards only after the
-- quiet period and not above the configured one unless that is allowed.
local told = false
for d = 1, 3 do
  local l = tonumber(ARGV[17 + d])
  local rem = tonumber(ARGV[20 + d])
  if l and l > 0 then
    if s.configured[d] > 0 and ARGV[10] ~= '1' then l = math.min(l, s.configured[d]) end
    local have = s.limit[d]
    if have == 0 or l < have or (l > have and now >= s.quiet_until) then
      s.limit[d] = l
      limits()
      if have == 0 and rem then s.level[d] = math.min(rem, capacity[d]) - pending(d) end
    end
  end
  -- More requests than our bucket holds: a count over a longer window, which
  -- says nothing of the short one.
  if rem and rate[d] > 0 and s.level[d] and not (d == 1 and rem > capacity[1]) then
    told = true
    local by, band = 0, d > 1 and tonumber(ARGV[24]) / 2 or 2
    -- An input that was estimated wrongly shows here now and is settled later.
    if d == 2 then band = band + 2 * math.sqrt(math.max(0, s.variance_in)) end
    -- Downwards: what is under way has drawn as much as we think, so what it
    -- varies by is no sign. While that is not known: all that is left when
    -- everything is done cannot be more than what is left now.
    local down = rem - s.level[d] + band
    if d < 3 or s.running_unknown == 0 then down = down - pending(d) end
    if d == 3 then down = down + 2 * math.sqrt(math.max(0, s.variance_out)) end
    -- Upwards only by what is certain: of what is under way nothing is drawn
    -- yet, and what was charged since the headers were written is not in them.
    local up = rem - s.level[d] - (d == 3 and s.running_out + own or pending(d)) - band
    if down < 0 then
      by = 0.5 * down
    elseif up > 0 and now >= s.quiet_until then
      by = 0.1 * math.max(0, up - charged_since(d, tonumber(ARGV[25]) + (d == 2 and 2 * WAY or WAY)))
    end
    s.level[d] = s.level[d] + by
    -- The integral: a level that has to be lowered again and again has another
    -- user, whose rate is what the corrections amount to a second.
    s.foreign_rate[d] = math.max(-0.5 * rate[d], math.min(0, s.foreign_rate[d] + 0.01 * by / s.headers_gap))
  end
end
if told then
  s.headers_gap = math.max(0.01, s.headers_gap + 0.05 * (math.min(now - s.headers_at, 60) - s.headers_gap))
  s.headers_at = now
end
for d = 1, 3 do
  if s.level[d] then s.level[d] = math.min(s.level[d], capacity[d] - pending(d)) end
end

hand_over()
save()
local function lv(d)
  if s.level[d] then return string.format('%.3f', s.level[d]) end
  return ''
end
local reply = {s.epoch, found, in_flight, lv(1), lv(2), lv(3)}
for _, m in ipairs(handed) do reply[#reply + 1] = m end
return reply
