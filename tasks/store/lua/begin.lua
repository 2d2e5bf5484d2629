-- What every script begins with: the clock, the way on in a full Redis, and the
-- names of what a chapter has that stands behind its callers.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- spare lets a script go on in a full Redis: one that has begun to write is not
-- stopped in the middle. For moves that jobs need to come to their end, which
-- makes room; never for what takes more in.
local function spare() redis.call('DEL', keys.spare()) end

-- tell writes the deliveries of an event (webhook.lua); expire ends a job whose
-- deadline has passed (finish.lua).
local tell, expire
