-- Looks at a tenant's tokens of the day.
-- KEYS[1] prefix; ARGV[1] tenant
-- Returns {tokens used, tokens set aside, ms until midnight UTC}.
local a = account(ARGV[1])
return { a.used, a.reserved, (today + 1) * 86400000 - now }
