-- An attempt begins: the call is in the record before it is made.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence, lease (ms), depth; bundle: what it joins instead of being called for, see bundle.lua, or nil; alone: its worker runs nothing beside it; by: names this start, sent again after a lost answer it is answered again; behind the
--          name, a blank and what was waited for, see waiting in record.go, and behind that the call, see keys.job}
-- Returns  {"ok", number of the call, attempts, started ms, wanted, tickets} where wanted is "1" when a
-- reader wants the text as it comes, or {"final"}, {"lost"}, {"gone"} or {"expired"}.
local j = load(a.id, 'n', 'st', 'due', 'al', 'sp')
if j then (j.dl > 0 and j.dl <= now and fitsEnd or fits)(j) end
spare()
if not j then return { 'gone' } end
if final(j.s) then return { 'final' } end
if j.f ~= a.fence then return { 'lost' } end
local wanted = redis.call('EXISTS', keys.wanted(j.id)) == 1 and '1' or ''
if j.s == 'running' then
  if j.by ~= a.by or not j.cur then return { 'lost' } end
  return { 'ok', j.m, tonumber(j.n), tonumber(string.match(j.cur, ' (%d+)')), wanted, {} }
end
if j.dl > 0 and j.dl <= now then
  expire(j)
  return { 'expired' }
end
-- One whose place a pause has taken needs one again: without, it goes back into line, uncounted.
if j.pl == '0' then
  redis.pcall('ZREM', keys.outs(j.t), j.id)
  if j.us then redis.pcall('ZREM', keys.outs(ownerOf(j)), j.id) end
  if crammed(j.t) or packed(j) then
    leave(j)
    redis.call('HINCRBY', j.key, 'f', 1)
    drops(j, 'pl')
    again(j, 0)
    backlog(j)
    become(j, j.s)
    return { 'lost' }
  end
  occupy(j)
  puts(j, 'pl', 1)
end
if a.bundle then fitsBundle(j) end
leave(j)
begins(j.p, dueOf(j) or 1000000)
redis.call('ZADD', keys.running(j.p), now + a.lease, j.id)
local m, n = j.m + 1, tonumber(j.n or 0) + 1
puts(j, 'm', m, 'n', n, 'cur', m .. ' ' .. now, 'by', a.by)
if not j.st then puts(j, 'st', now) end
if a.alone then puts(j, 'al', 1) end
if j.due or j.sp or j.al then drops(j, 'due', 'sp', not a.alone and 'al' or nil) end
if a.bundle then joins(j) end
become(j, 'running')
local tickets = {}
claim(j.p, a.depth, tickets)
if a.bundle then claimOpened(tickets) end
return { 'ok', m, n, now, wanted, tickets }
