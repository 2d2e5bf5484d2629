-- Keeps the record of a token, with a line of the audit. A repeat changes nothing.
-- KEYS     see begin.lua
-- ARGV[2]  {token, tenant; keep: when the record ends, ms; tokens: that there may be; act: the line; acts, old: see act_note.lua}
-- ARGV[3]  and on: the fields of the record
-- Returns  "ok", or "full" when there are as many as may be, or "leaving" when its tenant is being deleted.
local record = keys.token(a.token)
if redis.call('EXISTS', record) == 1 then return 'ok' end
sorted(keys.tokens(), keys.acts())
if closed(a.tenant) then return 'leaving' end
for _, id in ipairs(redis.call('ZRANGE', keys.tokens(), 0, 31)) do
  if redis.call('EXISTS', keys.token(id)) == 0 then redis.call('ZREM', keys.tokens(), id) end
end
if redis.call('ZCARD', keys.tokens()) >= a.tokens then return 'full' end
redis.call('HSET', record, unpack(ARGV, 3))
redis.call('PEXPIREAT', record, a.keep)
redis.call('ZADD', keys.tokens(), 0, a.token)
noted()
return 'ok'
