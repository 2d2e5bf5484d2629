-- Lists the tokens that were revoked after a version, the oldest first.
-- KEYS     see begin.lua
-- ARGV[2]  {after: a version, 0 for all; most: tokens}
-- Returns  {version, to go on after it; the newest version; {token, when none can be good any more, ms, …}}.
local newest = tonumber(redis.call('GET', keys.revision()) or 0)
local from = a.after
if newest == from then return { newest, newest, {} } end
if newest < from then from = 0 end -- a Redis that has lost some
local found = redis.call('ZRANGEBYSCORE', keys.revoked(), '(' .. string.format('%.0f', from), '+inf', 'WITHSCORES', 'LIMIT', 0, a.most)
local out, last = {}, newest
for i = 1, #found, 2 do
  out[i], out[i + 1] = found[i], tonumber(redis.call('ZSCORE', keys.revokedUntil(), found[i]) or 0)
end
if #found == 2 * a.most then last = tonumber(found[#found]) end
return { last, newest, out }
