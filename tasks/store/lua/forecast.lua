-- Takes in forecasts that were told, and finds out how right those before them were whose
-- time has come. What it learns corrects the next: of each class the median of the last
-- actual / predicted, and the quantile that one of ten of what is told exceeds. Which quantile
-- that is, is learned as well (adaptive conformal inference, Gibbs and Candes 2021): each that
-- starts late widens what is said next, each that starts in time narrows it a little.
-- KEYS     see begin.lua
-- ARGV[2]  {pool; most: forecasts that are awaited at once; look: looked up in one run; window: ratios kept of a class;
--          scored: forecasts kept that are scored; target: share that may start late; gamma: how fast that is learned}
-- ARGV[3]  and on, for each forecast: job, told ms, ms until the start as predicted, as told, and by when nine of ten start, class
-- Returns  {awaited, class, samples, median, late, ...}
local awaited, foretold, learned = keys.awaited(a.pool), keys.foretold(a.pool), keys.forecasts(a.pool)
sorted(awaited)
redis.call('LLEN', foretold)
lasting()
local state = {}
do
  local flat = redis.call('HGETALL', learned)
  for i = 1, #flat, 2 do state[flat[i]] = flat[i + 1] end
end
local every = tonumber(state['in'] or 1)
local day = 86400000

-- Which forecasts are kept, when that is not all, is drawn by what they are of.
local function drawn(id, at, of)
  return of == 1 or tonumber(string.sub(redis.sha1hex(id .. at), 1, 7), 16) % of == 0
end

for i = 3, #ARGV, 6 do
  local id, at, predicted, told, late, class = unpack(ARGV, i, i + 5)
  if drawn(id, at, every) then
    redis.call('ZADD', awaited, at + told, table.concat({ every, id, at, predicted, told, late, class }, ' '))
  end
end

local touched = {}

-- learn takes what came of a forecast into its class.
local function learns(class, predicted, late, actual)
  local allowed = tonumber(state['a:' .. class] or a.target)
  local missed = actual > late and 1 or 0
  allowed = math.max(-0.5, math.min(0.5, allowed + a.gamma * (a.target - missed)))
  state['a:' .. class] = string.format('%.6f', allowed)
  state['r:' .. class] = string.format('%.4f ', math.log(math.max(actual, 1) / predicted)) .. (state['r:' .. class] or '')
  touched[class] = true
end

local function score(at, weight, what, inTime)
  redis.call('LPUSH', foretold, table.concat({ at, weight, what, inTime }, ' '))
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', awaited, '-inf', now, 'LIMIT', 0, a.look)) do
  local weight, id, at, predicted, told, late, class = string.match(member, '^(%d+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  at, predicted, told, late = tonumber(at), tonumber(predicted), tonumber(told), tonumber(late)
  local job = redis.pcall('HMGET', keys.job(id), 's', 'st')
  local started, ended = tonumber(job[2]), job.err or final(job[1])
  if started and started >= at then
    local actual = started - at
    if predicted >= 500 then learns(class, predicted, late, actual) end
    if told >= 1000 then score(at, weight, string.format('%.4f', actual / told), actual <= late and 1 or 0) end
    redis.call('ZREM', awaited, member)
  elseif started or ended then
    if told >= 1000 then score(at, weight, 'c', 0) end
    redis.call('ZREM', awaited, member)
  else
    redis.call('ZADD', awaited, now + math.max(1000, (now - at) / 10), member)
  end
end
redis.call('LTRIM', foretold, 0, a.scored - 1)

-- quantiles are the median of a class and the one that its share allowed exceeds.
local function quantiles(class)
  local ratios, kept = {}, 0
  for word in string.gmatch(state['r:' .. class], '%S+') do
    if #ratios == a.window then break end
    ratios[#ratios + 1], kept = tonumber(word), kept + #word + 1
  end
  state['r:' .. class] = string.sub(state['r:' .. class], 1, kept)
  table.sort(ratios)
  local function rank(p) return ratios[math.max(1, math.min(#ratios, math.ceil(p * (#ratios + 1))))] end
  state['n:' .. class] = #ratios
  state['h:' .. class] = string.format('%.4f', rank(0.5))
  -- Below 0 it is more than was ever seen: the longer it takes to be enough, the more.
  local allowed = tonumber(state['a:' .. class])
  state['l:' .. class] = string.format('%.4f', rank(1 - math.max(0, allowed)) + 2 * math.max(0, -allowed))
  for _, f in ipairs({ 'a', 'r', 'n', 'h', 'l' }) do redis.call('HSET', learned, f .. ':' .. class, state[f .. ':' .. class]) end
end
for class in pairs(touched) do quantiles(class) end

-- Too many: of two one is kept from now on, and stands for both. Few again: more are.
local many = redis.call('ZCARD', awaited)
local before = every
if many > a.most then
  every = every * 2
  local list = redis.call('ZRANGE', awaited, 0, -1, 'WITHSCORES')
  for i = 1, #list, 2 do
    local weight, id, at, rest = string.match(list[i], '^(%d+) (%S+) (%d+)( .*)$')
    if not drawn(id, at, every) then
      redis.call('ZREM', awaited, list[i])
    elseif tonumber(weight) < every then
      redis.call('ZREM', awaited, list[i])
      redis.call('ZADD', awaited, list[i + 1], every .. ' ' .. id .. ' ' .. at .. rest)
    end
  end
elseif every > 1 and many < a.most / 8 then
  every = every / 2
end
if every ~= before then redis.call('HSET', learned, 'in', every) end
redis.call('PEXPIRE', awaited, day)
redis.call('PEXPIRE', foretold, 3600000)
redis.call('PEXPIRE', learned, 7 * day)

local out = { redis.call('ZCARD', awaited) }
for class = 0, 7 do
  if state['n:' .. class] then
    for _, v in ipairs({ class, state['n:' .. class], state['h:' .. class], state['l:' .. class] }) do out[#out + 1] = v end
  end
end
return out
