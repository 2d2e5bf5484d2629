-- Adds text to a running attempt's partial text.
-- KEYS[1] prefix; ARGV[1] id, ARGV[2] fence, ARGV[3] call, ARGV[4] byte offset, ARGV[5] text, ARGV[6] kept ms
-- Returns 1, or 0 when nobody wants the text any more or the caller has lost the job.
local j = load(ARGV[1])
if not j or j.s ~= 'running' or j.f ~= tonumber(ARGV[2]) then return 0 end
if redis.call('EXISTS', keys.wanted(j.id)) == 0 then return 0 end
local key = keys.text(j.id)
if redis.call('HGET', key, 'n') ~= ARGV[3] then
  redis.call('DEL', key)
  redis.call('HSET', key, 'n', ARGV[3], 't', '')
end
if redis.call('HSTRLEN', key, 't') == tonumber(ARGV[4]) then
  redis.call('HSET', key, 't', redis.call('HGET', key, 't') .. ARGV[5])
  redis.call('PEXPIRE', key, ARGV[6])
  redis.pcall('PUBLISH', keys.note(j.id), 'text')
end
return 1
