-- Tries commands one by one, on keys that are there for nothing else.
-- KEYS     see begin.lua
-- ARGV[2]  {calls: of commands, each a list: its name, the kind of its key or "" for one without, further arguments,
--          of which "@" is that key once more}
-- Returns  of each that failed its name and what Redis says, in turn.
local failed = {}
for _, call in ipairs(a.calls) do
  local name, kind = call[1], call[2]
  local args = { name }
  if kind ~= '' then args[2] = keys.trial(kind) end
  for i = 3, #call do args[#args + 1] = call[i] == '@' and args[2] or call[i] end
  local said = redis.pcall(unpack(args))
  if type(said) == 'table' and said.err then
    failed[#failed + 1] = name
    failed[#failed + 1] = said.err
  end
end
return failed
