-- Writes the delivery that an endpoint's owner asks for to see one arrive.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] endpoint, ARGV[3] result ttl ms, ARGV[4] event id
-- Returns {"ok", id}, {"gone"} or {"conflict"} when the endpoint is disabled.
local h = redis.call('HMGET', keys.endpoint(ARGV[2]), 't', 'dis')
if h[1] ~= ARGV[1] then return { 'gone' } end
if h[2] then return { 'conflict' } end
local id = deliver(ARGV[1], ARGV[2], '', 'endpoint.test', ARGV[2], ARGV[4], '', tonumber(ARGV[3]))
wwake()
return { 'ok', id }
