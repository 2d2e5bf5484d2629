-- Keeps how tenants behave, of each where nobody has kept anything since it was read.
-- KEYS     see begin.lua
-- ARGV[2]  {keep: ms that it is kept for; act: the line of the audit that goes with it, of a repeat the same, or ""; acts, old: see act_note.lua}
-- ARGV[3]  and on, for each tenant: its name; the version that the new one was made of, 0: of none, -1: it is only read; the new
--          one; "1" when something was found; ms for which its jobs wait for a review, "0": they do not
-- Returns  now in ms and then for each: "" and "" when it was kept, or nothing of the tenant is taken in, else the version that is there and it.
local out, is = { now }, {}

-- holds has a tenant's jobs wait for a review so many ms more, or go on.
local function holds(tenant, ms)
  if not reviewed(tenant) then settled(tenant, now) end -- it may have ended by itself
  if ms > 0 then
    local from = string.match(reviews[tenant] or '', '^(%d+) ') or string.format('%.0f', now)
    redis.call('HSET', keys.weights(), '\t\r' .. tenant, string.format('%s %.0f', from, now + ms))
  elseif reviews[tenant] then
    settled(tenant, now)
    redis.call('ZADD', keys.atLimit(), now, tenant) -- whoever sweeps lets it go on
  end
end

local again = a.act ~= '' and redis.call('ZSCORE', keys.acts(), a.act)
for i = 3, #ARGV, 5 do
  is[i] = redis.call('HMGET', keys.conduct(ARGV[i]), 'v', 'd')
  weightOf(ARGV[i])
  if reviews[ARGV[i]] then redis.call('LLEN', keys.reviews(ARGV[i])) end
end
sorted(keys.conducts(), keys.acts(), keys.atLimit())
each('HLEN', keys.weights())
redis.call('EXISTS', keys.conducts()) -- whether an end may be set is another permission
for i = 3, #ARGV, 5 do
  local tenant, version = ARGV[i], tonumber(is[i][1] or 0)
  local kept, data = '', ''
  if version ~= tonumber(ARGV[i + 1]) and not again then
    kept, data = version, is[i][2] or ''
  elseif not again and not closed(tenant) then
    redis.call('HSET', keys.conduct(tenant), 'v', version + 1, 'd', ARGV[i + 2])
    redis.call('PEXPIRE', keys.conduct(tenant), a.keep)
    if ARGV[i + 3] == '1' then redis.call('ZADD', keys.conducts(), now, tenant) end
    holds(tenant, tonumber(ARGV[i + 4]))
    if a.act ~= '' then noted() end
  end
  out[#out + 1] = kept
  out[#out + 1] = data
end
return out
