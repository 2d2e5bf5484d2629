-- state: the gate's state, its clock and its epoch. Every script begins with it.
--
-- The keys are named <prefix>:limit:{<pool>}:<name>, the channel is called say.
--
-- KEYS[1] gate     string  the state, read as s, packed: see below
-- KEYS[2] held     zset    reservation -> when it is settled unasked, s
-- KEYS[3] booked   hash    reservation -> packed: see ledger.lua
-- KEYS[4] classes  hash    class -> packed: see learn.lua
-- KEYS[5] ahead    zset    reservation -> its send time, while that lies ahead, s
-- KEYS[6] waiting  zset    holder -> its place in the line for a concurrency slot
-- KEYS[7] wants    hash    holder -> packed: see line.lua
-- KEYS[8] holders  zset    holder -> end of its lease, s
--
-- ARGV[1] now, s; '' for Redis TIME: only tests and the simulator give one
-- ARGV[2] JSON: the arguments by name, read as a. Each script adds its own to
--   holder       the caller
--   lease        of a holder, s
--   epoch        that the caller knows, '0' for none
--   limits       list: configured requests, input, output tokens a minute; 0: no limit
--   burst        requests at once
--   concurrency  calls under way at once, 0: no limit
--   channel      for messages: "holder epoch status wait key" to one, see line.lua; to all
--                "* epoch hold wait" and "* epoch free 0", see steer.lua
--   lifetime     from send to expiry of a reservation, s
--
-- What scripts answer and say of a time to wait is in whole µs.
--
-- The state. A list has an entry for each dimension: 1 requests, 2 input tokens, 3
-- output tokens; its unit is a request or a token. Times (at) are seconds since the
-- epoch began, by Redis's clock. Every field is there from the beginning.
--
--   field            unit        written by           meaning
--   version          number      state                of this form; see VERSION
--   epoch            µs          state                when the state began, by Redis's clock; a text
--   updated_at       at          ledger               up to when levels and fading sums are counted
--   upkeep_at        at          ledger               when reservations were last looked through
--   quiet_until      at          state                till then headers raise nothing: state was lost
--   hold_until       at          state steer          till then nothing passes
--   hold_reason      text        state steer          of the last hold
--   configured       list/min    state                the limits as configured, 0: none
--   limit            list/min    state                the limits as they are now, 0: none
--   level            list        state guard ledger book settle steer
--                                                     what the provider's bucket will hold once every
--                                                     granted call is done; negative is debt; false:
--                                                     no limit, or not known yet
--   ahead            list        ledger book          booked for send times that lie ahead, so not yet
--                                                     charged; requests and input only
--   foreign_rate     list/s      ledger settle        rate that other users of the key take, 0 or less
--   used             list        ledger book settle   a sum that fades in a minute: what was used of late
--   mean_need        list        book                 of the calls of late; false: none yet
--   running_out      tokens      ledger               sums over the calls under way: their expected output,
--   drawn_rate       tokens/s    ledger               what they draw a second,
--   drawn_before     tokens      ledger               what that would have drawn before they were sent,
--   running_unknown  calls       ledger               how many are of a class of which none has ended,
--   variance_in      tokens²     ledger settle        by how much their input may be off,
--   variance_out     tokens²     ledger               and their output
--   ended_out        tokens      ledger settle        a sum that fades in 0.3 s: output of ended calls
--   mean_latency     s           book                 of the calls of late; 0: none yet
--   slow_start       share       steer                of the pace at which the slow start began; 1: none
--   slow_start_at    at          steer                when it began, or will
--   ramped           flag        steer                it follows a Ramp: no Resume cuts it short
--   soft_pace        share       ledger steer         of the pace: refusals lower it, time restores it
--   soft_cut_at      at          steer                when a refusal last lowered it
--   soft_last_at     at          steer                the last soft refusal
--   soft_before_at   at          steer                the one before it
--   headers_gap      s           settle               mean time between headers that told a level
--   headers_at       at          settle               when headers last told a level
--   last_place       number      line                 the last place in the line that was given out
--   bound_by         dimension   book                 what the last call that waited waited for, 0: none did
--   bound_at         at          book                 when that call was to be sent

-- spare lets a script go on in a full Redis: one that has begun to write is not stopped.
-- For all but what lets calls through; the key is never there.
local function spare() redis.call('DEL', KEYS[1] .. ':spare') end

local GATE, HELD, BOOKED, CLASSES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local AHEAD, WAITING, WANTS, HOLDERS = KEYS[5], KEYS[6], KEYS[7], KEYS[8]

-- VERSION is raised one release after every process can read the new form. A
-- state of an older form that is read no more counts as lost; one of a later
-- release is left alone, and nothing passes here until this process is replaced.
local VERSION = 1
local QUIET = 20 -- s after a loss in which headers raise nothing

local a = cjson.decode(ARGV[2])
local now = tonumber(ARGV[1])
if not now then
  local c = redis.call('TIME')
  now = tonumber(c[1]) + tonumber(c[2]) / 1e6
end

-- Redis packs three times as fast in its own form as in JSON; the embedded Redis
-- knows JSON alone.
local msgpack = rawget(_G, 'cmsgpack')
local function packed(v) return msgpack and msgpack.pack(v) or cjson.encode(v) end
local function unpacked(b)
  if string.byte(b) == 123 then return cjson.decode(b) end -- a brace, which begins no packed table
  return msgpack.unpack(b)
end

-- What a script may write is looked at before it writes. Where a key is of another type
-- than it should be, the state counts as lost and begins anew: nothing would pass for ever.
local s, foul = redis.pcall('GET', GATE), false
for _, said in ipairs({
  s, redis.pcall('ZINTER', 5, KEYS[1] .. ':spare', HELD, AHEAD, WAITING, HOLDERS), -- reads none of them: one is empty
  redis.pcall('HLEN', BOOKED), redis.pcall('HLEN', CLASSES), redis.pcall('HLEN', WANTS),
}) do
  if type(said) == 'table' and said.err then
    if not string.find(said.err, 'WRONGTYPE', 1, true) then return said end
    foul = true
  end
end
s = not foul and s and unpacked(s)

-- Missing state is not a full bucket: the provider may just have been drained.
-- The first call of a new gate passes at once, then the allowance is earned, until
-- the provider says what is left. That is believed at once, but not when state was
-- lost: calls that we do not know of any more are still to be charged. A clock
-- more than a minute behind our last write is a state that cannot be used.
local lost = foul
if s and s.version ~= VERSION then
  if s.version and s.version > VERSION then
    return redis.error_reply(string.format(
      "the gate's state has version %d and this process reads %d: run the release that wrote it", s.version, VERSION))
  end
  s, lost = nil, true
end
if s then
  local at = now - tonumber(s.epoch) / 1e6
  if s.updated_at - at > 60 then
    s, lost = nil, true
  else
    now = at
  end
end
if not s then
  lost = lost or a.epoch ~= '0'
  redis.call('DEL', HELD, BOOKED, CLASSES, AHEAD, WAITING, WANTS, HOLDERS)
  s = {
    version = VERSION, epoch = string.format('%.0f', now * 1e6), updated_at = 0, upkeep_at = 0,
    quiet_until = lost and QUIET or 0, hold_until = lost and 1 or 0, hold_reason = lost and 'state lost' or '',
    configured = {0, 0, 0}, limit = {0, 0, 0}, level = {false, false, false}, ahead = {0, 0},
    foreign_rate = {0, 0, 0}, used = {0, 0, 0}, mean_need = {false, false, false},
    running_out = 0, drawn_rate = 0, drawn_before = 0, variance_out = 0, variance_in = 0,
    running_unknown = 0, ended_out = 0, mean_latency = 0,
    slow_start = 1, slow_start_at = 0, ramped = false,
    soft_pace = 1, soft_cut_at = -60, soft_last_at = -60, soft_before_at = -60,
    headers_gap = 1, headers_at = 0, last_place = 0, bound_by = 0, bound_at = 0,
  }
  now = 0
elseif a.epoch ~= '0' and a.epoch ~= s.epoch then
  -- Somebody who could not know that state was lost made this epoch.
  lost = true
  if now < 1 and s.hold_until < 1 then s.hold_until, s.hold_reason = 1, 'state lost' end
  s.quiet_until = QUIET
end
if now < s.updated_at then now = s.updated_at end

local rate, capacity = {}, {} -- a second, and at most; 0: no limit
local function set_limit(d, limit)
  s.limit[d], rate[d], capacity[d] = limit, limit / 60, limit
  if d == 1 then capacity[1] = math.min(a.burst, limit) end
  if limit == 0 then s.level[d] = false end
end

-- A changed configuration replaces what was learned of that dimension.
for d = 1, 3 do
  local configured, limit = a.limits[d], s.limit[d]
  if s.configured[d] ~= configured then s.configured[d], limit = configured, configured end
  set_limit(d, limit)
end

local function micros(seconds)
  return math.floor(seconds * 1e6 + 0.5)
end

local function save()
  redis.call('SET', GATE, packed(s))
end
