-- Keeps what an operator has set of a tenant, with a line of the audit. A repeat changes nothing.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; was: the settings that the new ones were made of, "" for none; set: the new ones, JSON, "" for none;
--          weight: the tenant's, and its places, see weigh; settle: ms after which every process knows; act: the line; acts, old: see act_note.lua}
-- Returns  "ok", "changed" when others stand there by now, or "leaving" when the tenant is being deleted
local is = redis.call('HGET', keys.settings(), a.tenant) or ''
if is == a.set then return 'ok' end
if is ~= a.was then return 'changed' end
sorted(keys.acts(), keys.atLimit())
each('HLEN', keys.weights())
if closed(a.tenant) then return 'leaving' end
if a.set == '' then
  redis.call('HDEL', keys.settings(), a.tenant)
else
  redis.call('HSET', keys.settings(), a.tenant, a.set)
end
-- A version is never below the clock, so that none comes again after a Redis has lost them.
local version = math.max(tonumber(redis.call('HGET', keys.settings(), '\t') or 0) + 1, now)
redis.call('HSET', keys.settings(), '\t', string.format('%.0f', version))
-- The order of work has it at once, and until every process knows nobody's submit takes it back.
local weight, most = placesIn(a.weight)
redis.call('HSET', keys.weights(), a.tenant, weight, '\t' .. a.tenant, string.format('%s r%.0f', most, now + a.settle))
redis.call('ZADD', keys.atLimit(), now, a.tenant) -- whoever sweeps lets it go on, and its users
for _, owner in ipairs(usersAtLimit(a.tenant)) do redis.call('ZADD', keys.atLimit(), now, owner) end
noted()
return 'ok'
