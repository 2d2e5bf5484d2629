-- A worker's attempt has ended, with a final status or another try.
-- KEYS     see begin.lua
-- ARGV[2]  {id, fence; what: succeeded, failed, retry, hand_back; delay: ms until the next try; depth;
--          to: the pool of a fallback model to go to, or ""; passed: fallback models gone to with it;
--          left: after it; toll: µs of its allowance that the job is expected to cost there, or 0;
--          cost: what the call has cost so, -1 when nobody knows; used: tokens that the call used, -1 when nobody knows; kept: the number of the call whose
--          end lay on a disk meanwhile, or 0; field: r, or rr where the result
--          is where it lies; pieces: its bytes where that is in Redis, or 0; spent: for the ledger, see post in account.lua, or nil; code: of its error, "" for none; ask: of the call, as keys.job has it behind the name of its start; ended: what its line of the log has for now, or nil}
-- ARGV[3]  outcome as JSON, or "" to leave the one before, ARGV[4] details of the call as JSON, ARGV[5] result,
-- ARGV[6]  a copy of it for those that wait for the same answer, where that is another text
-- Returns  {"ok", tickets, where a body lies that is of use no more, or ""}, {"final"}, {"lost"} or {"gone"}.
local outcome, call, result = ARGV[3], ARGV[4], ARGV[5]
local j = moving(a.id, 'e', 'log')
if not j then return { 'gone' } end
if a.kept > 0 and not j.ask and a.ask ~= '' then
  j.ask = a.ask
  fitsEnd(j)
end
if a.to ~= '' then fits({ p = a.to, t = j.t }) end
spare()
if final(j.s) then return { 'final' } end
local called = j.s == 'running'
-- The job of an answer that lay on a disk was perhaps given back meanwhile. As long as
-- no other call has begun, the answer ends it: what was called a loss was none.
if j.f ~= a.fence and a.kept > 0 and a.what == 'succeeded' and phase[j.s] == 'queued' and j.m == a.kept then
  local log = j.log or ''
  local at, _, cur, loss = string.find(log, '(%d+ %d+) 0 ([^\n]*)\n$')
  if at and string.match(cur, '^%d+') == tostring(a.kept) then
    j.log, j.cur = string.sub(log, 1, at - 1), cur
    if a.spent and string.find(loss, '"account":', 1, true) then -- it is in the ledger, as a loss
      a.spent[1] = 0
      a.spent[7] = a.spent[7] - (string.match(loss, '"cost":%[0,(%d+)%]') or 0)
    end
  end
  redis.call('HINCRBY', j.key, 'n', 1)
  j.f, called = a.fence, true
end
if j.f ~= a.fence then return { 'lost' } end
local used = called and a.used or 0
j.cost = 0
if called then j.cost = a.cost >= 0 and a.cost or nil end
if called then close(j, a.ended or now, call, a.delay > 0 and string.format('"d":%.0f,', a.delay) or nil, a.spent) end
if a.what == 'succeeded' or a.what == 'failed' then
  if a.what == 'succeeded' then
    if not called then return { 'lost' } end
    puts(j, a.field, result)
    learn(j.p, expected(envelopeOf(j)), math.max(#result, a.pieces))
    if j.sh and redis.call('EXISTS', keys.followers(j.p, j.sh)) == 1 then
      redis.call('SET', keys.answer(j.sh), ARGV[6] or result, 'PX', math.min(600000, ttl))
      puts(j, 'ca', j.sh)
    end
    drops(j, 'b', 'br') -- the prompt has served; only a job that failed may be asked again
  end
  finish(j, a.what, outcome, used)
  if a.what == 'failed' then mishap(j.p, 'j', a.code, j.id) end
else
  leave(j)
  vacate(j)
  if outcome ~= '' then puts(j, 'o', outcome) end
  redis.call('HINCRBY', j.key, 'f', 1) -- whoever still holds it has lost it
  if a.what == 'hand_back' and called then redis.call('HINCRBY', j.key, 'n', -1) end
  if j.dl > 0 and j.dl <= now + a.delay then
    expire(j, called, used)
  elseif a.to ~= '' then
    charge(j, used)
    reckon(j, j.cost)
    if called then become(j, 'retrying') end
    divert(j, a.to, a.toll, a.passed, a.left)
  else
    charge(j, used)
    again(j, j.cost)
    if a.delay > 0 then
      puts(j, 'due', now + a.delay)
      if not called then deferred(j, now + a.delay) end
      redis.call('ZADD', keys.due(), now + a.delay, j.id)
    else
      backlog(j)
    end
    if called then become(j, 'retrying') else become(j, j.s) end
  end
end
local tickets = {}
claim(j.p, a.depth, tickets)
claimOpened(tickets)
return { 'ok', tickets, a.what == 'succeeded' and j.br or '' }
