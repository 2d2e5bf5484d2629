-- Adds text to a running attempt's partial text.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence, call; offset: in bytes; bytes: of the text where that is sealed, else nil; keep (ms)}
-- ARGV[3]  text
-- Returns  1, or 0 when nobody wants the text any more or the caller has lost the job.
local j = load(a.id)
if not j or j.s ~= 'running' or j.f ~= a.fence then return 0 end
if redis.call('EXISTS', keys.wanted(j.id)) == 0 then return 0 end
local key = keys.text(j.id)
local h = redis.call('HMGET', key, 'n', 't', 'o')
local begun = tonumber(h[1]) == a.call
local text = begun and h[2] or ''
if (begun and tonumber(h[3]) or #text) == a.offset then
  redis.call('HSET', key, 'n', a.call, 't', text .. ARGV[3], unpack(a.bytes and { 'o', a.offset + a.bytes } or {}))
  redis.call('PEXPIRE', key, a.keep)
  redis.pcall('PUBLISH', keys.note(j.id), 'text')
elseif not begun then
  redis.call('HSET', key, 'n', a.call, 't', '')
  redis.call('HDEL', key, 'o')
end
return 1
