-- Has a token be good no longer, with a line of the audit. A repeat changes nothing.
-- KEYS     see begin.lua
-- ARGV[2]  {token: its jti; margin: ms that clocks may differ; longest: ms that a token without a record may still be good;
--          act: the line; acts, old: see act_note.lua}
-- Returns  "ok".
local record = keys.token(a.token)
each('HLEN', record)
sorted(keys.revoked(), keys.revokedUntil(), keys.acts())
local over = now + a.longest
local exp = redis.call('HGET', record, 'exp')
if exp then over = tonumber(exp) + a.margin end
if redis.call('ZSCORE', keys.revoked(), a.token) then return 'ok' end
spare()
-- A version is never below the clock, so that none comes again after a Redis has lost them.
local version = math.max(tonumber(redis.call('GET', keys.revision()) or 0) + 1, now)
redis.call('SET', keys.revision(), string.format('%.0f', version))
redis.call('ZADD', keys.revoked(), version, a.token)
redis.call('ZADD', keys.revokedUntil(), over, a.token)
if exp then redis.call('HSETNX', record, 'rev', now) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', keys.revokedUntil(), '-inf', now, 'LIMIT', 0, 64)) do
  redis.call('ZREM', keys.revoked(), id)
  redis.call('ZREM', keys.revokedUntil(), id)
end
noted()
return 'ok'
