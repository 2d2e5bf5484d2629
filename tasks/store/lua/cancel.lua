-- The caller cancels jobs. A running one is final at once: its worker is told
-- to cut the call off, and whatever it brings comes too late.
-- KEYS     see begin.lua
-- ARGV[2]  {op: see operation.lua; tenant; batch: that they are of and that is to be canceled, or ""}
-- ARGV[3]  and on: ids
-- Returns  for each id "ok", "final" or "gone".
local said = answered()
if said then return said end
for i = 3, #ARGV do moving(ARGV[i]) end
if a.batch ~= '' then redis.call('HLEN', keys.batch(a.batch)) end
spare()
if a.batch ~= '' then redis.call('HSETNX', keys.batch(a.batch), 'canceling', now) end
local answers = {}
for i = 3, #ARGV do
  local j = load(ARGV[i])
  if not j or foreign(a.tenant, j.t, j.key) then
    answers[#answers + 1] = 'gone'
  elseif final(j.s) then
    answers[#answers + 1] = 'final'
  else
    local billed, used = 'false', 0
    if j.s == 'running' then
      billed, used = 'true', unknown
      unseen(j, now, 'canceled')
      redis.pcall('PUBLISH', keys.control(), 'cancel ' .. j.id)
    end
    redis.call('HINCRBY', j.key, 'f', 1)
    finish(j, 'canceled', '{"error":{"code":"canceled","message":"canceled by the caller","maybe_billed":' .. billed .. '}}', used)
    answers[#answers + 1] = 'ok'
  end
end
return answer(answers)
