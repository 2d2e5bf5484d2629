-- Looks at how a tenant's quotas stand, and those of one user of it.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant}
-- Returns  {now ms, jobs that wait, bytes of bodies, tokens used, tokens set aside, ms until midnight UTC, money used and money set aside, in billionths, jobs with a place}; of a user behind
-- that its own {jobs that wait, tokens used, tokens set aside, money used, money set aside, jobs with a place}.
local day, own = unpack(daysOf(a.tenant, user))
local said = {
  now, math.max(0, waitingOf(a.tenant)), math.max(0, bytesOf(a.tenant)), day.used, day.reserved, (today + 1) * 86400000 - now,
  string.format('%.0f', day.paid), string.format('%.0f', day.pledged), redis.call('ZCARD', keys.outs(a.tenant)),
}
if own then
  for _, n in ipairs({ userWaitingOf(a.tenant, user), own.used, own.reserved, own.paid, own.pledged, redis.call('ZCARD', keys.outs(a.tenant .. '/' .. user)) }) do said[#said + 1] = string.format('%.0f', n) end
end
return said
