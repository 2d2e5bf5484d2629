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

-- noted writes a line of the audit. Those that have outlived their time go, some at a
-- time, and so do the oldest when there are too many.
local function noted()
  redis.call('ZADD', keys.acts(), 0, a.act)
  for _, line in ipairs(redis.call('ZRANGE', keys.acts(), 0, 31)) do
    if line >= a.old then break end
    redis.call('ZREM', keys.acts(), line)
  end
  redis.call('ZREMRANGEBYRANK', keys.acts(), 0, -a.acts - 1)
end

-- reserved is the name that stands for an Idempotency-Key, and the fingerprint that goes with
-- it. Where the store seals, or has sealed, it may be in use under another name, which
-- follows behind a line's end, and so does the fingerprint that goes with that.
local function reserved(tenant, key, fingerprint)
  local name, other = string.match(key, '^([^\n]*)\n(.*)$')
  if not name then return key, fingerprint end
  local print, former = string.match(fingerprint or '', '^([^\n]*)\n(.*)$')
  if redis.call('EXISTS', keys.idempotency(tenant, other)) == 1 then return other, former end
  return name, print
end
