-- Looks at how a tenant's quotas stand.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant}
-- Returns  {now ms, jobs that wait, bytes of bodies, tokens used, tokens set aside, ms until midnight UTC, money used and money set aside, in billionths, jobs with a place}.
local day = dayOf(a.tenant)
return {
  now, math.max(0, waitingOf(a.tenant)), math.max(0, bytesOf(a.tenant)), day.used, day.reserved, (today + 1) * 86400000 - now,
  string.format('%.0f', day.paid), string.format('%.0f', day.pledged), redis.call('ZCARD', keys.outs(a.tenant)),
}
