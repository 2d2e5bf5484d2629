-- Writes a line of the audit. A repeat changes nothing.
-- KEYS     see begin.lua
-- ARGV[2]  {act: the line; acts: lines that are kept; old: what lines sort before that are kept no longer}
-- Returns  "ok".
sorted(keys.acts())
noted()
return 'ok'
