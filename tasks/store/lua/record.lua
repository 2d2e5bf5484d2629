-- The record of a job: its status, who waits for it, who is told.

local phase = {
  queued = 'queued', scheduled = 'queued', retrying = 'queued', running = 'running',
  succeeded = 'succeeded', failed = 'failed', canceled = 'canceled', expired = 'expired',
}

local function final(status)
  local p = phase[status]
  return p ~= 'queued' and p ~= 'running'
end

-- load returns what a move needs to know of a job, and further fields of its record, or
-- nil when there is none.
local function load(id, ...)
  local key = keys.job(id)
  local h = redis.call('HMGET', key, 's', 't', 'p', 'c', 'f', 'k', 'dl', 'm', 'cur', 'fb', 'sh', 'fo', 'q', 'qb', 'br', 'v', 'ct', 'by', 'w', 'cs', 'pl', 'us', ...)
  if not h[1] then return nil end
  local j = {
    id = id, key = key, s = h[1], t = h[2], p = h[3], c = h[4] or nil,
    f = tonumber(h[5] or 0), k = h[6], dl = tonumber(h[7] or 0), m = tonumber(h[8] or 0), cur = h[9],
    fb = h[10] or nil, sh = h[11] or nil, fo = h[12] or nil, q = h[13] or nil, qb = h[14] or nil, br = h[15] or nil,
    v = tonumber(h[16] or 0), ct = tonumber(h[17] or 0), by = h[18] or nil, w = h[19] or nil, cs = h[20] or nil, pl = h[21] or nil, us = h[22] or nil,
    ask = string.match(h[18] or '', '^%S+ %-?%d+ %d+ %a (.*)$'),
  }
  for i = 1, select('#', ...) do j[select(i, ...)] = h[22 + i] end
  return j
end

-- foreign reports that what lies at a key, and is of a tenant, is none of the caller's: it is
-- another tenant's or, where the caller is one user of a tenant (begin.lua), another's.
local function foreign(tenant, of, key)
  return of ~= tenant or user ~= nil and redis.call('HGET', key, 'us') ~= user
end

-- sound is load for those who move many jobs: one whose record, or what beside it look
-- looks at, is of another type holds up none of the others. Then it returns nil and true.
local function sound(id, look)
  local ok, j = pcall(load, id)
  if ok and j and look then ok = pcall(look, j) end
  if ok then return j end
  return nil, true
end

-- moving is load for a move that has not written yet: it looks at all that it may write.
local function moving(id, ...)
  local j = load(id, ...)
  if j and not final(j.s) then fitsEnd(j) end
  return j
end

-- broken puts a job off that sound has found to be so: whoever sweeps then looks at it again.
local function broken(id, where) redis.call('ZADD', where, now + 60000, id) end

-- missed notes a job that was met in a line and has no record, for the audit
-- (audit_jobs.lua). It comes behind writes, and a hash of another type stops nothing.
local function missed(id, was, pool) redis.pcall('HSET', keys.missing(), id, was .. ' ' .. pool) end

-- note wakes those who wait for a job: "ended" when it is final, else its version. To
-- whoever waits for the end, a record that is not large comes with it, field by field,
-- each with its length before it: who has it need not read it, beside all that a
-- worker writes at just this moment. Nothing that is said here may end the script,
-- which has written by now: whoever may not be told looks by himself.
local function note(j, v)
  local channel = keys.note(j.id)
  if not final(j.s) then
    redis.pcall('PUBLISH', channel, v)
    return
  end
  local said = { 'ended ' }
  if (redis.pcall('PUBSUB', 'NUMSUB', channel)[2] or 0) > 0
    and redis.call('HSTRLEN', j.key, 'r') + redis.call('HSTRLEN', j.key, 'b') < 65536 then
    for _, part in ipairs(redis.call('HGETALL', j.key)) do
      said[#said + 1] = #part .. ':' .. part
    end
  end
  redis.pcall('PUBLISH', channel, table.concat(said))
end

-- become moves a job to a status, in its record and in every count, and writes what
-- was noted for the record.
local function become(j, to)
  local from, into = phase[j.s], phase[to]
  count(j, from, into)
  for _, of in ipairs({ j.t, j.us and j.t .. '/' .. j.us }) do
    if days[of] and days[of].unbooked then book(days[of]) end -- else settle has
  end
  j.v = j.v + 1
  -- Fields go before others come: past 16, Redis doubles what the record takes beside them.
  if j.drop then redis.call('HDEL', j.key, unpack(j.drop)) end
  redis.call('HSET', j.key, 's', to, 'v', j.v, unpack(j.set or {}))
  j.set, j.drop = nil, nil
  if j.c and from ~= into then
    local g = keys.batch(j.c)
    if redis.call('EXISTS', g) == 1 then
      redis.call('HINCRBY', g, from, -1)
      redis.call('HINCRBY', g, into, 1)
      if final(to) then
        local left = redis.call('HMGET', g, 'queued', 'running', 'whole')
        if tonumber(left[1] or 0) + tonumber(left[2] or 0) == 0 and left[3] then
          redis.call('HSET', g, 'ended', now)
          redis.call('PEXPIRE', g, ttl)
          redis.call('PEXPIRE', keys.lines(j.c), ttl)
          redis.pcall('PUBLISH', keys.note(j.c), 'ended')
          tell(j.t, 'batch.completed', j.c, 'evt_b' .. string.sub(j.c, 7) .. '_' .. string.format('%d', now), nil, '', nil, j.us)
        end
      end
    end
  end
  j.s = to
  note(j, j.v)
  return j.v
end

-- leave takes a job out of every index of jobs under way, and from behind the one that it
-- follows. A start has taken one that runs out of the others.
local function leave(j)
  if j.s == 'running' then
    redis.call('ZREM', keys.running(j.p), j.id)
  elseif redis.call('ZREM', keys.handed(j.p), j.id) == 1 or redis.call('ZREM', keys.held(j.p), j.id) == 1 then
    onStage(j, -1)
  end
  if j.fb then redis.call('ZREM', keys.fallbacks(j.p), j.id) end
  if j.fo then redis.call('ZREM', keys.followers(j.p, j.fo), j.id) end
end

-- moment notes for become to write what else nobody could tell later of how a job waits:
-- a letter, when it was in ms since the job was created, and perhaps a comma and more.
--   f  it follows another that asks the same
--   b  it no longer does
--   h  until then it is put off, since the other moment
--   d  it leaves the pool that is named
--   x  its caller asked for it again, after it had ended at the other moment
-- What is long loses its oldest, and begins with "~" then.
local function moment(j, letter, at, more)
  local what = letter .. string.format('%.0f', at - j.ct) .. (more and ',' .. more or '')
  local w = j.w and j.w .. ' ' .. what or what
  while #w > 160 do
    local rest = string.match(w, '^~ %S+ (.+)$') or string.match(w, '^%S+ (.+)$')
    if not rest then break end
    w = '~ ' .. rest
  end
  j.w = w
  puts(j, 'w', w)
end

-- deferred notes that a job is put off until due. What follows another such at once is
-- one with it.
local function deferred(j, due)
  local from = now - j.ct
  local before, last, since = string.match(j.w or '', '^(.-) ?h(%d+),(%d+)$')
  if before and from - last < 3000 then
    j.w, from = before ~= '' and before or nil, since
  end
  moment(j, 'h', due, string.format('%.0f', from))
end

-- calm are the outcomes of calls that brought an answer, or that Sluice itself cut off.
local calm = { succeeded = true, cached = true, shared = true, canceled = true, handed_back = true, spilled = true }

-- close ends the call under way in the job's log, for become to write: n, started, ended,
-- details. ended is 0 when nobody knows, "-" when that is the job's end. extra are members more of the details, as JSON,
-- and with them stands what the call's start said of the wait before it. The oldest lines
-- go when the log passes 16 KiB. spent is for the ledger, see post in account.lua; nil: nothing.
local function close(j, ended, details, extra, spent)
  if not j.cur then return end
  if spent then post(j, spent) end
  local outcome = string.match(details, '"outcome":"([%w_]+)"')
  if outcome and not calm[outcome] then mishap(j.p, 'c', outcome, j.id) end
  local waited = string.match(j.by or '', '^%S+ (%-?%d+ %d+ %a)')
  if waited then extra = '"w":"' .. waited .. '",' .. (extra or '') end
  if extra then details = '{' .. extra .. string.sub(details, 2) end
  if j.log == nil then j.log = redis.call('HGET', j.key, 'log') end
  local log = (j.log or '') .. j.cur .. ' ' .. ended .. ' ' .. details .. '\n'
  while #log > 16384 do
    local cut = string.find(log, '\n', 1, true)
    if not cut or cut == #log then break end
    log = string.sub(log, cut + 1)
  end
  puts(j, 'log', log)
  drops(j, 'cur', 'by')
  j.cur, j.ask = nil, nil
end

-- unseen ends a call under way of which nobody sees how it ended: it may have been
-- charged, for about the most that it may cost. extra is as of close.
local function unseen(j, ended, outcome, extra) -- seldom
  local said = '{"outcome":"' .. outcome .. '","maybe_billed":true'
  local most, account = string.match(j.ask or '', '^(%-?%d+) ([^\n]*)')
  if account then said = said .. ',"account":' .. cjson.encode(account) end
  if account and most ~= '-1' then said = said .. ',"cost":[0,' .. most .. ']' end
  close(j, ended, said .. '}', extra, { 1, 0, 0, 0, 0, 0, math.max(0, tonumber(most or 0)) })
end

-- mark stands for what is looked for in an index: the same text has the same mark, and
-- seldom another has it too.
local function mark(text) return string.sub(redis.sha1hex(text), 1, 8) end

-- marks are what the index of metadata has of a job, for each pair its mark and the job;
-- nil: the job has no metadata. Who reads the index reads the record as well.
local function marks(id, envelope)
  if not envelope or not string.find(envelope, '"md":{', 1, true) and not string.find(envelope, '"mp":[', 1, true) then return nil end
  local e, all = cjson.decode(envelope), {}
  for name, value in pairs(type(e.md) == 'table' and e.md or {}) do all[#all + 1] = mark(name .. '\0' .. value) .. id end
  for _, pair in ipairs(type(e.mp) == 'table' and e.mp or {}) do all[#all + 1] = mark(pair) .. id end -- sealed
  return all[1] and all
end

-- marking puts a job into the index of metadata.
local function marking(tenant, all)
  local rows = {}
  for _, m in ipairs(all) do rows[#rows + 1], rows[#rows + 2] = 0, m end
  redis.call('ZADD', keys.marked(tenant), unpack(rows))
end
