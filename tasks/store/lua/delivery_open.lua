-- Takes deliveries that were handed out, and reads what attempts at them need: what is
-- to be sent, who signs it, and the job or batch that it tells of while no body is
-- kept. A result comes only where its receiver wants it.
-- KEYS     see begin.lua
-- ARGV[2]  {most: bytes of a result; of one that is longer, one byte more; lease (ms); by: who takes them, who may ask
--          again after a lost answer; line: of their logs, should that process die}
-- ARGV[3]  and on, for each delivery: id, fence
-- Returns  for each {} when its ticket is void, or another has it, else {its fields, those of its endpoint or of its tenant's keys, those
--          of its job or batch}
for i = 3, #ARGV, 2 do -- nothing is taken where something cannot be read
  local h = redis.call('HMGET', keys.delivery(ARGV[i]), 't', 'w', 'o')
  if h[1] then
    sorted(keys.sending(), keys.places(h[1]))
    each('HLEN', h[2] and keys.endpoint(h[2]) or keys.secrets(h[1]), string.sub(h[3], 1, 6) == 'batch_' and keys.batch(h[3]) or keys.job(h[3]))
  end
end
spare()
local fields = { 'e', 't', 'p', 'c', 's', 'n', 'ct', 'fin', 'o' }

local function read(id, fence)
  local d = keys.delivery(id)
  local h = redis.call('HMGET', d, 's', 'f', 't', 'w', 'o', 'by')
  local lease = h[1] == 'pending' and h[2] == fence and redis.call('ZSCORE', keys.sending(), id)
  if not lease then return {} end
  local mine = fence .. ' ' .. a.by .. ' '
  local taken = h[6] and string.sub(h[6], 1, #fence + 1) == fence .. ' '
  if taken and string.sub(h[6], 1, #mine) ~= mine then return {} end
  if not taken then redis.call('HSET', d, 'by', mine .. a.line) end
  if lease - now < a.lease / 2 then -- else it lasts until it is renewed
    redis.call('ZADD', keys.sending(), now + a.lease, id)
    redis.call('ZADD', keys.places(h[3]), now + a.lease, id)
  end
  local object = {}
  if redis.call('HEXISTS', d, 'b') == 0 then
    if string.sub(h[5], 1, 6) == 'batch_' then
      object = redis.call('HGETALL', keys.batch(h[5]))
    else
      local job = keys.job(h[5])
      for i, value in ipairs(redis.call('HMGET', job, unpack(fields))) do
        object[2 * i - 1], object[2 * i] = fields[i], value or ''
      end
      if h[4] and redis.call('HGET', keys.endpoint(h[4]), 'ir') == '1' then
        local result = redis.call('HMGET', job, 'r', 'rr')
        local n = #object
        object[n + 1], object[n + 2] = 'r', string.sub(result[1] or '', 1, a.most + 1)
        object[n + 3], object[n + 4] = 'rr', result[2] or ''
      end
    end
  end
  return { redis.call('HGETALL', d), redis.call('HGETALL', h[4] and keys.endpoint(h[4]) or keys.secrets(h[3])), object }
end

local out = {}
for i = 3, #ARGV, 2 do
  out[#out + 1] = read(ARGV[i], ARGV[i + 1])
end
return out
