-- The caller cancels jobs. A running one is final at once: its worker is told
-- to cut the call off, and whatever it brings comes too late.
-- KEYS[1] prefix; ARGV[1] tenant, ARGV[2] result ttl ms, then ids
-- Returns for each id "ok", "final" or "gone".
spare()
local ttl, answers = tonumber(ARGV[2]), {}
for a = 3, #ARGV do
  local j = load(ARGV[a])
  if not j or j.t ~= ARGV[1] then
    answers[#answers + 1] = 'gone'
  elseif final(j.s) then
    answers[#answers + 1] = 'final'
  else
    local billed, used = 'false', 0
    if j.s == 'running' then
      billed, used = 'true', unknown
      close(j, now, '{"outcome":"canceled","maybe_billed":true}')
      redis.pcall('PUBLISH', keys.control(), 'cancel ' .. j.id)
    end
    redis.call('HINCRBY', j.key, 'f', 1)
    finish(j, 'canceled', '{"error":{"code":"canceled","message":"canceled by the caller","maybe_billed":' .. billed .. '}}', ttl, used)
    answers[#answers + 1] = 'ok'
  end
end
return answers
