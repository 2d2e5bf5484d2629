-- Looks at a tenant's tokens of the day, and those of one user of it.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant}
-- Returns  {tokens used, tokens set aside, ms until midnight UTC}, and of a user behind that its own {tokens used, tokens set aside}.
local day, own = unpack(daysOf(a.tenant, user))
return { day.used, day.reserved, (today + 1) * 86400000 - now, own and own.used, own and own.reserved }
