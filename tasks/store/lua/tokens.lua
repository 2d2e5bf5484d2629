-- Looks at a tenant's tokens of the day.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant}
-- Returns  {tokens used, tokens set aside, ms until midnight UTC}.
local day = dayOf(a.tenant)
return { day.used, day.reserved, (today + 1) * 86400000 - now }
