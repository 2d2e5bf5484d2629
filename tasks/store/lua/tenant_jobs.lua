-- Ends and forgets the next jobs of a tenant that is being deleted. Nobody is told of it, but who waits for them.
-- KEYS     see begin.lua
-- ARGV[2]  {tenant; at: the deletion's, see Returns; most: jobs; patience: see tenant_close.lua}
-- Returns  {jobs left, -1 when that deletion is over, where bodies lie that are of use no more}.
local list = keys.jobs(a.tenant)
sorted(list, keys.leaving(), keys.callers(), keys.expiring(), keys.batches(a.tenant), keys.marked(a.tenant))
each('HLEN', keys.departure(a.tenant))
local under = redis.call('HMGET', keys.departure(a.tenant), 'at', 'over')
if under[1] ~= a.at or under[2] then return { -1, {} } end
local ids = redis.call('ZRANGE', list, 0, a.most - 1)
for _, id in ipairs(ids) do
  local j = load(id, 'ik')
  if j then
    if not final(j.s) then fitsEnd(j) end
    if j.ik then each('HLEN', keys.idempotency(a.tenant, j.ik)) end
    each('LLEN', keys.tellings(id))
  end
end
spare()
for _, id in ipairs(ids) do
  local j = load(id) -- the end of one before may have moved it
  if j and j.t == a.tenant then
    if not final(j.s) then
      local billed, used = 'false', 0
      if j.s == 'running' then
        billed, used = 'true', unknown
        unseen(j, now, 'canceled')
        redis.pcall('PUBLISH', keys.control(), 'cancel ' .. id)
      end
      finish(j, 'canceled', '{"error":{"code":"canceled","message":"its tenant is deleted","maybe_billed":' .. billed .. '}}', used)
    end
    forget(a.tenant, id, 'deleted')
    redis.pcall('PUBLISH', keys.note(id), 'deleted')
  end
  redis.call('ZREM', keys.callers(), id)
  redis.call('ZREM', list, id)
end
redis.call('ZADD', keys.leaving(), 'XX', now + a.patience, a.tenant)
redis.call('HINCRBY', keys.departure(a.tenant), 'jobs', #ids)
return { redis.call('ZCARD', list), loose }
