-- Writes the delivery that an endpoint's owner asks for to see one arrive.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant, endpoint; event: its id}
-- Returns  {"ok", id}, {"gone"} or {"conflict"} when the endpoint is disabled.
local said = answered()
if said then return said end
local h = redis.call('HMGET', keys.endpoint(a.endpoint), 't', 'dis', 'us')
if foreign(a.tenant, h[1], keys.endpoint(a.endpoint)) then return { 'gone' } end
if h[2] then return { 'conflict' } end
fitsEvents(a.tenant)
lasting()
local id = deliver(a.tenant, a.endpoint, '', 'endpoint.test', a.endpoint, a.event, '', h[3])
wwake()
return answer({ 'ok', id })
