-- An operation that a caller asks for is told by a name, a.op. What it answered is
-- kept for a minute: sent again after its answer was lost, it answers the same and
-- changes nothing. What changed nothing need not be kept.

-- answered is what the operation has answered before, or nil.
local function answered()
  local said = redis.call('GET', keys.operation(a.op))
  return said and cjson.decode(said).answer
end

-- answer keeps what it answers now, and returns it.
local function answer(reply)
  redis.call('SET', keys.operation(a.op), cjson.encode({ answer = reply }), 'PX', 60000)
  return reply
end
