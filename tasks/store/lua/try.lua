-- Tries commands one by one, on keys that are there for nothing else.
-- KEYS     see begin.lua
-- ARGV[2]  {calls: of commands, each a list: its name, the kind of its key or "" for one without, further arguments,
--          of which "@" is that key once more, or one that is not there}
-- Returns  of each that failed its name and what Redis says, in turn.
local failed = {}
for _, call in ipairs(a.calls) do
  local name, kind = call[1], call[2]
  local args = { name }
  local key = kind ~= '' and keys.trial(kind) or keys.spare()
  if kind ~= '' then args[2] = key end
  for i = 3, #call do args[#args + 1] = call[i] == '@' and key or call[i] end
  local said = redis.pcall(unpack(args))
  if type(said) == 'table' and said.err then
    failed[#failed + 1] = name
    failed[#failed + 1] = said.err
  end
end
return failed
