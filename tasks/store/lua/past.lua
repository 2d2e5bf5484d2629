-- Notes what a pool's jobs wait for, when that is news.
-- KEYS     see begin.lua
-- ARGV[2]  {pool; cause: a letter, see record.go; shares: weights of the tenants with a backlog; at: since when, ms, or 0 for
--          now; begun: seconds of the allowance that all calls took that have begun; gap: ms that nobody had looked after it, or 0; most: entries that are kept}
-- Returns  1 when it was news.
spare()
local list = keys.past(a.pool)
local last = redis.call('LINDEX', list, -1)
local from, cause, shares = string.match(last or '', '^(%d+) (%a) (%S+)')
from, shares = tonumber(from or 0), tonumber(shares or 0)
local at = math.max(from, a.at > 0 and math.min(a.at, now) or now)
local function add(from, cause, shares, begun)
  redis.call('RPUSH', list, string.format('%.0f %s %.4g', from, cause, shares) .. (begun > 0 and string.format(' %.3f', begun) or ''))
end
if a.gap > 0 and cause and cause ~= 'u' and now - a.gap >= from then
  add(now - a.gap, 'u', shares, 0)
  at, cause = now, 'u'
end
local much = math.abs(a.shares - shares) > 0.1 * math.max(1, shares)
if cause == a.cause and (not much or now - from < 2000) then return 0 end
add(at, a.cause, a.shares, a.begun)
redis.call('LTRIM', list, -a.most, -1)
return 1
