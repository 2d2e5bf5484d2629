-- Writes a line of the audit, in the place of one with its id. A repeat changes nothing.
-- KEYS     see begin.lua
-- ARGV[2]  {act: the line; id: its id, where it may be there already, else ""; acts: lines that are kept; old: what lines sort before that are kept no longer}
-- Returns  "ok".
sorted(keys.acts())
if a.id ~= '' then
  for _, line in ipairs(redis.call('ZREVRANGEBYLEX', keys.acts(), '(' .. a.id .. '!', '[' .. a.id .. ' ')) do redis.call('ZREM', keys.acts(), line) end
end
noted()
return 'ok'
