-- Keeps how tenants behave, of each where nobody has kept anything since it was read.
-- KEYS     see begin.lua
-- ARGV[2]  {keep: ms that it is kept for; act: the line of the audit that goes with it, of a repeat the same, or ""; acts, old: see act_note.lua}
-- ARGV[3]  and on, for each tenant: its name; the version that the new one was made of, 0: of none, -1: it is only read; the new
--          one; "1" when something was found
-- Returns  now in ms and then for each: "" and "" when it was kept, or nothing of the tenant is taken in, else the version that is there and it.
local out, is = { now }, {}
local again = a.act ~= '' and redis.call('ZSCORE', keys.acts(), a.act)
for i = 3, #ARGV, 4 do
  is[i] = redis.call('HMGET', keys.conduct(ARGV[i]), 'v', 'd')
end
sorted(keys.conducts(), keys.acts())
redis.call('EXISTS', keys.conducts()) -- whether an end may be set is another permission
for i = 3, #ARGV, 4 do
  local tenant, version = ARGV[i], tonumber(is[i][1] or 0)
  local kept, data = '', ''
  if version ~= tonumber(ARGV[i + 1]) and not again then
    kept, data = version, is[i][2] or ''
  elseif not again and not closed(tenant) then
    redis.call('HSET', keys.conduct(tenant), 'v', version + 1, 'd', ARGV[i + 2])
    redis.call('PEXPIRE', keys.conduct(tenant), a.keep)
    if ARGV[i + 3] == '1' then redis.call('ZADD', keys.conducts(), now, tenant) end
    if a.act ~= '' then noted() end
  end
  out[#out + 1] = kept
  out[#out + 1] = data
end
return out
