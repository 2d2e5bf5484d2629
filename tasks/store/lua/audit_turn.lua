-- Whether it is this process that compares the counts with the records: one does.
-- KEYS     see begin.lua
-- ARGV[2]  {by: the process; begin: whether a round begins; depths: of the pools to look after, by pool}
-- Returns  {1 or 0, now ms, tenants: all that have work or had some, when a round begins}.
local turn = redis.call('GET', keys.audit())
if turn and turn ~= a.by then return { 0, now, {} } end
local seen, all = {}, {}
local function add(list)
  for _, tenant in ipairs(list) do
    if not seen[tenant] then
      seen[tenant] = true
      all[#all + 1] = tenant
    end
  end
end
if a.begin then
  add(tenants())
  for pool in pairs(a.depths) do
    add(redis.pcall('ZRANGE', keys.ring(pool), 0, -1)) -- of another type, it names nobody
  end
end
redis.call('SET', keys.audit(), a.by, 'PX', 10000)
return { 1, now, all }
