-- Every key, channel and field of the record. KEYS[1] is the prefix of all keys; it
-- carries one hash tag, so that whatever a script builds from it lives in one slot
-- of a cluster. What Go names by itself, keys.go has under the same name. A script
-- names a key as in keys.job(id); script.go puts what the line here returns in its place.
--
-- Each function says in its line what is at the key. The fields of a hash stand
-- before it, where they are not names of tenants, pools or the like.
local P = KEYS[1]
local keys = {}

-- Operators.

function keys.session(name) return P .. 'ses:' .. name end -- string: who is signed in to the console, until the token ends

-- t    tenant
-- nm   name
-- sub  subject
-- sc   scopes
-- m    globs of models that it may ask, as JSON
-- p    globs of pools that it may use, likewise; none: all
-- ct   created
-- by   who made it
-- exp  when it ends
-- rev  when it was revoked
function keys.token(id) return P .. 'tok:' .. id end -- hash: a token that the server keeps
function keys.tokens() return P .. 'toks' end -- zset: those tokens, by id
function keys.revoked() return P .. 'rev' end -- zset: revoked tokens, by the version that brought each
function keys.revokedUntil() return P .. 'revend' end -- zset: the same, by when no such token can be good any more
function keys.revision() return P .. 'revno' end -- string: the newest version of those
function keys.acts() return P .. 'acts' end -- zset: what operators did, an id and JSON each, by id

-- Jobs.

-- e    envelope: what never changes, as JSON
-- b    body
-- br   where the body lies, in place of b
-- s    status
-- t    tenant
-- us   the user of it whose job it alone is; not there where users are not kept apart
-- p    pool
-- c    batch
-- k    its lane and its order in its tenant's backlog, see apart in backlog.lua, until it is final
-- cs   µs of its pool's allowance that its call is expected to cost and, behind a space, what its tenant was charged for the one to come or under way; until it is final
-- ct   created
-- f    fence
-- v    version
-- n    attempts used
-- m    calls made
-- cur  the call under way: its number and when it began
-- by   the name of its start and what was waited for before it; then perhaps, each behind a space, about the most that the call may cost, in billionths, -1: not known, and whom it asks, a line's end and the model
-- log  the calls that ended
-- st   started
-- fin  finished
-- exp  when the record ends
-- due  when it is to be woken
-- dl   deadline
-- o    outcome, as JSON: error, usage, provider, finish
-- r    result
-- rr   where the result lies, in place of r
-- bu   the bundle that it is in, or was
-- fb   fallback models left
-- fi   fallback models gone to
-- nb   attempts used before the last of them
-- p0   the first pool
-- ca   the digest under which a copy of its answer is kept
-- ik   its Idempotency-Key
-- sh   the digest of the request that it leads
-- fo   the digest of the request that it follows or has followed
-- lw   calls lost with their worker; when it runs alone, only those that did
-- al   1 when its last call runs, or ran, alone in its worker
-- sp   1 when the worker of its last call was stopping
-- w    what else happened to it, where anything did: see moment in record.lua
-- q    tokens set aside for it until it is final, and the UTC day of that; of a batch's line its batch has the day
-- qb   bytes of its body that are counted for its tenant until it is final
-- pl   1 while it has one of its tenant's places, where these are limited; 0 when a pause has taken that from it
function keys.job(id) return P .. 'j:' .. id end -- hash: a job
-- n    the call that brings the text
-- t    the text so far; sealed, in pieces, each behind its length in four bytes
-- o    bytes of the text, where it is sealed
function keys.text(id) return P .. 'text:' .. id end -- hash: what a running call has brought so far
function keys.events(id) return P .. 'ev:' .. id end -- string: what a call with a stream has brought so far: its number in eight digits, how they end ("-": not yet), and its events as they came
function keys.wanted(id) return P .. 'want:' .. id end -- string: somebody reads the text as it comes
function keys.jobs(tenant) return P .. 'tn:' .. tenant end -- zset: the tenant's jobs, by id
function keys.marked(tenant) return P .. 'md:' .. tenant end -- zset: what finds the tenant's jobs by their metadata: for each pair of a job its mark, see record.lua, and the job
function keys.indexed() return P .. 'mdsince' end -- string: jobs that were created from then on are all found by that; none while it is not there
function keys.expiring() return P .. 'gone' end -- zset: finished jobs, tenant|id, by when their record ends
function keys.answer(digest) return P .. 'a:' .. digest end -- string: the answer to a request that has one
function keys.leader(pool, digest) return P .. 'lead:' .. pool .. ':' .. digest end -- string: the job that asks for all that ask the same, until it is final or another pool's
function keys.followers(pool, digest) return P .. 'fol:' .. pool .. ':' .. digest end -- zset: those that wait for its answer and stand in no other line, by order
-- fp   fingerprint of the request
-- id   the job or batch that the key stands for
-- ans  the answer
-- busy the batch that is being written under the key
-- at   when a call that makes neither began; not there in others
function keys.idempotency(tenant, key) return P .. 'i:' .. tenant .. ':' .. key end -- hash: an Idempotency-Key

-- Calls: requests whose callers wait on their connections.

function keys.calls(tenant, digest) return P .. 'call:' .. tenant .. ':' .. digest end -- zset: the jobs, or batches, of calls that ask the same, by when their caller counts as gone, or ten trillions and when the answer was sent
function keys.callers() return P .. 'callers' end -- zset: jobs that somebody waits for so, by when nobody waits for them any more

-- The order of work.

function keys.backlog(pool, tenant) return P .. 'q:' .. pool .. ':' .. tenant end -- zset: a tenant's backlog, by lane and order; behind all lanes what stands aside
function keys.turns(pool, lane) return P .. 'turns:' .. lane .. ':' .. pool end -- zset: the tenants with jobs of a lane in the backlog, by turn: seconds of the pool's allowance by weight

-- turn     the present turn among the lanes, at which one that comes begins
-- high     the turn of that lane: seconds of the pool's allowance by share
-- normal   of that one
-- low      of that one
-- times    the present turn among the tenants of each lane
-- shares   of the lanes, as the configuration has them
function keys.order(pool) return P .. 'order:' .. pool end -- hash: the lanes of a pool
function keys.owing(pool, lane) return P .. 'owe:' .. lane .. ':' .. pool end -- zset: tenants without a backlog in a lane who were served beyond its present turn, by what was theirs
function keys.ring(pool) return P .. 'ring:' .. pool end -- zset: the tenants with a backlog, by the turn that release 0.1.0 gives them and since when they have one, see enroll in backlog.lua
function keys.paid(pool) return P .. 'paid:' .. pool end -- hash: tenant -> what its calls have cost of late and were expected to, µs each
function keys.turn(pool) return P .. 'turn:' .. pool end -- string: the present turn of ring, which release 0.1.0 moves
function keys.weights() return P .. 'weight' end -- hash: tenant -> its weight, where that is not 1; a tab and tenant -> how many of its jobs may be out at once, where they are limited, behind that " u" and how many of each of its users, likewise, and behind that " r" and until when an operator's settings stand whatever a process has; a tab, a line's end and tenant -> until when nothing of it is taken in, for it is being deleted; a tab, a carriage return and tenant -> since when and until when its jobs wait for a review
function keys.settings() return P .. 'tset' end -- hash: tenant -> what an operator has set of it, JSON, see tasks/tenant.go; a tab -> the version of all of them
function keys.leaving() return P .. 'bye' end -- zset: tenants that are being deleted, by when another process goes on with it
-- at    when that began
-- act   who wants it, as the audit has it
-- jobs  that were deleted so far; and likewise what follows
-- bat   batches
-- doc   files
-- hook  endpoints
-- dlv   deliveries
-- tok   tokens
-- over  when all was gone
function keys.departure(tenant) return P .. 'byes:' .. tenant end -- hash: how far the deletion of a tenant has come
function keys.outs(owner) return P .. 'outs:' .. owner end -- zset: jobs of a tenant, or of tenant/user, with such a limit that are handed out, held or running, by when that was last seen to be so
function keys.passed(owner) return P .. 'full:' .. owner end -- zset: pools in which such a tenant at its limit, or under review, has a backlog and no turn, or such a user jobs that stand aside, each behind its depth, by since when
function keys.aside(pool, owner) return P .. 'aside:' .. pool .. ':' .. owner end -- zset: jobs of a user at its limit that stand aside in its tenant's backlog, by order
function keys.reviews(tenant) return P .. 'rvw:' .. tenant end -- list: from when until when a tenant's jobs waited for a review, of reviews that are over
function keys.atLimit() return P .. 'fulls' end -- zset: those tenants and users, by when to look again
function keys.paused() return P .. 'paused' end -- hash: pool -> 1 while none of its jobs is handed out
function keys.handed(pool) return P .. 'out:' .. pool end -- zset: handed to Asynq, or taken just now; by when to look again
function keys.held(pool) return P .. 'hold:' .. pool end -- zset: taken by a worker, waiting for pace; by end of lease
function keys.running(pool) return P .. 'run:' .. pool end -- zset: running; by end of lease
function keys.fallbacks(pool) return P .. 'fall:' .. pool end -- zset: those of backlog, handed, held and followers that have a model left to fall back to
function keys.due() return P .. 'due' end -- zset: jobs to be woken, by time
function keys.deadlines() return P .. 'dl' end -- zset: jobs to be expired, by time
function keys.late() return P .. 'late' end -- list: expired jobs that no sweep has told of

-- at   when somebody last looked at what its jobs wait for
-- wk   when one of its workers last said that it is there
function keys.watched(pool) return P .. 'eye:' .. pool end -- hash: who looks after a pool
function keys.processes() return P .. 'procs' end -- zset: who looks after pools: 1 when it makes calls, else 0, its version and its name, by when it last said that it is there
function keys.past(pool) return P .. 'past:' .. pool end -- list: what a pool's jobs waited for: from when, a letter (see record.go), the weights of the tenants with a backlog, and the seconds of the allowance that all calls begun by then took, where that is known

-- Forecasts of when jobs start, and how right they were: forecast.lua alone writes these.

-- in   of how many forecasts one is kept: 1, 2, 4 ...
-- r    what came of the last of a class, actual over predicted, as logarithms; here and below a colon and the class follow
-- n    how many they are
-- a    the share that is allowed to start later than is said of nine of ten, so that one of ten does; below 0 none of r is enough
-- h    the median of r
-- l    all but a share a of r are at most this
function keys.forecasts(pool) return P .. 'fc:' .. pool end -- hash: what corrects a pool's forecasts
function keys.awaited(pool) return P .. 'fcw:' .. pool end -- zset: forecasts whose job has not started yet, by when to look: how many it stands for, job, when it was served, ms until the start as predicted, as served, and by which nine of ten start, class
function keys.foretold(pool) return P .. 'fts:' .. pool end -- list: forecasts that are scored, the newest first: when it was served, how many it stands for, actual over served or 'c' for one that ended without a start, 1 when it started in time

-- Counts.

-- queued   jobs that wait
-- running  jobs that run
-- cost     what its calls have cost of late, µs of its allowance
-- guess    what they were expected to cost
-- stage    what those between the backlog and the provider are expected to cost, µs
-- begun    what all calls that ever began were expected to cost, or have cost, µs
function keys.load(pool) return P .. 'n:' .. pool end -- hash: a pool's jobs; a tab and tenant -> what that was served of late, see served in backlog.lua
function keys.mishaps(pool) return P .. 'mis:' .. pool end -- hash: a letter, which five minutes of an hour, a space and a cause -> when those began, how often that went wrong in them, and the last job that it did to; see mishap in account.lua
function keys.waiting() return P .. 'tq' end -- hash: tenant -> waiting jobs
function keys.userWaiting(tenant) return P .. 'tqu:' .. tenant end -- hash: user of a tenant -> waiting jobs that are its alone
function keys.bytes() return P .. 'tb' end -- hash: tenant -> bytes of the bodies of what has not ended, where they are limited
-- d    the UTC day
-- u    tokens used
-- r    tokens set aside
-- mu   billionths that calls cost, and may have cost, of jobs with tokens set aside
-- mr   billionths set aside
function keys.day(tenant) return P .. 'day:' .. tenant end -- hash: the tenant's tokens of a day
function keys.userDay(day, tenant) return P .. 'dayu:' .. day .. ':' .. tenant end -- hash: user of a tenant -> of a UTC day its tokens used and set aside, and billionths likewise, as in the tenant's
function keys.ledger(day, tenant) return P .. 'led:' .. day .. ':' .. tenant end -- hash: account, a line's end and model -> what a tenant's calls of a UTC day took, see account.lua
function keys.userLedger(day, tenant) return P .. 'ledu:' .. day .. ':' .. tenant end -- hash: user, a line's end, and as in the tenant's -> what that user's calls took
function keys.ledgers() return P .. 'leds' end -- zset: tenants with a ledger, by its newest day

-- Room in Redis, see room.lua. A colon and a pool follow the letters but u, m, a, l and full.

-- u    bytes in use, when Redis was last asked
-- m    its maxmemory, 0: none
-- a    bytes taken in since
-- l    bytes of a result at least, in a pool of which few have come
-- full 1 while pools are to be paused because Redis is nearly full
-- b    how large the results of jobs that have not ended may be in all
-- n    how many such jobs there are
-- s    how large the results were that came of late, in all
-- e    how large they might have been
-- c    how many have come
function keys.room() return P .. 'room' end -- hash: what Redis has room for

-- Batches.

-- t    tenant
-- us   as of a job
-- ct   created
-- i    Idempotency-Key
-- w    the name of its opening
-- whole     1 once it is accepted
-- at   how many lines are in the backlogs, while not all are
-- ended     when the last line ended
-- canceling when its cancellation was asked for; 1 where a release before this one noted it
-- bad       1 when some of its lines fail by themselves
-- dl   the dialect of all the pools of its jobs; not there where they are of several, or it was made by a release before this one
-- rp        1 when it was made by the repeat of a call that made none, the batch of that call once it came
-- q    tokens to be set aside for its lines
-- qm   billionths to be set aside with them
-- qd   the UTC day of that
-- total     lines
-- queued    lines that wait
-- running   lines that run
-- succeeded lines that ended so
-- failed    lines that ended so
-- canceled  lines that ended so
-- expired   lines that ended so
function keys.batch(id) return P .. 'g:' .. id end -- hash: a batch
function keys.batches(tenant) return P .. 'gs:' .. tenant end -- zset: the tenant's accepted batches, by id
function keys.lines(batch) return P .. 'gl:' .. batch end -- list: its job ids in line order
function keys.staging() return P .. 'staging' end -- zset: batches being written, by when they are abandoned
function keys.staged(tenant) return P .. 'gst:' .. tenant end -- zset: those of a tenant, by id
function keys.unfolding() return P .. 'unfold' end -- zset: batches being put into backlogs, by when a sweep goes on with it

-- Operations.

function keys.operation(op) return P .. 'op:' .. op end -- string: what an operation of a caller has answered, as JSON

-- Bundles, of jobs that go to a provider's own batch API together.

-- k    what its members have in common
-- ac   the account whose batch it is
-- md   the model that all of them ask
-- ep   the endpoint likewise
-- s    state
-- f    fence
-- ct   created
-- n    jobs that joined
-- by   bytes of their lines
-- sp   when what has no answer goes back to the ordinary lane
-- at   when it was last about to be sent
-- ln   lines of that
-- bt   the provider's id of the batch
-- fi   the provider's id of the file
-- sn   how often a batch was asked for
function keys.bundle(id) return P .. 'nb:' .. id end -- hash: a bundle
function keys.members(bundle) return P .. 'nbm:' .. bundle end -- hash: job -> its fence and its tenant
function keys.bundles(pool) return P .. 'nbs:' .. pool end -- zset: a pool's bundles, by when a worker is to take each up
function keys.gathering(pool) return P .. 'nbg:' .. pool end -- hash: kind -> the bundle that jobs of it join

-- The sweep.

function keys.swept() return P .. 'swept' end -- string: when the last one was; release 0.1.0 writes it without a fraction
function keys.grace() return P .. 'grace' end -- string: there while no lease says anything yet
function keys.bodiesSwept() return P .. 'bodies' end -- string: there while no process is to look for bodies that no record refers to
function keys.pieces(body) return P .. 'body:' .. body end -- list: the pieces of a body that lies in Redis beside its record
function keys.inPieces() return P .. 'pieces' end -- zset: the names of such bodies, by when each was begun
function keys.spare() return P .. 'spare' end -- never there: deleting it is a write that a full Redis allows

function keys.audit() return P .. 'audit' end -- string: the process that compares counts with records now
function keys.missing() return P .. 'missing' end -- hash: job met without a record -> its phase and pool

-- Health.

function keys.beat() return P .. 'beat' end -- string: when a process last found that it can write
function keys.trial(kind) return P .. 'trial:' .. kind end -- string: or another kind, for a moment: what a command was tried on

-- Channels.

function keys.note(id) return P .. 'note:' .. id end -- channel: a job or batch has changed; with no id nobody's: whoever may subscribe to it may to any
function keys.control() return P .. 'control' end -- channel: what one process tells the others

-- Webhooks. A lane is an endpoint, or a tenant and a host. A place is what a
-- delivery has that is handed out.

-- t    tenant
-- us   as of a job: whose endpoint it goes to, or whose job's own URL
-- w    endpoint
-- u    the job's own URL
-- l    lane
-- y    type of the event
-- o    object
-- v    event
-- x    detail
-- s    status
-- ct   created
-- n    attempts of this round
-- due  when it is tried again
-- fin  finished
-- why  why it ended
-- f    fence
-- by   of the attempt at a fence: the fence, the process that makes it, and the line of the log should that die
-- log  attempts
-- b    body as it was sent
-- gone why nothing of its job's may be in it any more
function keys.delivery(id) return P .. 'd:' .. id end -- hash: a delivery
function keys.tellings(job) return P .. 'jd:' .. job end -- list: the deliveries that tell of a job
function keys.deliveries(tenant) return P .. 'wt:' .. tenant end -- zset: the tenant's deliveries, by id
function keys.sent(endpoint) return P .. 'we:' .. endpoint end -- zset: the endpoint's deliveries, by id
function keys.lane(lane) return P .. 'wq:' .. lane end -- zset: ready to be sent, by when
function keys.senders() return P .. 'wtenants' end -- zset: tenants with a lane in line, by turn
function keys.sendersTurn() return P .. 'wturn' end -- string: the present turn, for when that is empty
function keys.lanes(tenant) return P .. 'wlanes:' .. tenant end -- zset: the tenant's lanes with something ready and room, by turn
function keys.formerLanes() return P .. 'wring' end -- zset: such lanes of all tenants, as release 0.1.0 has them
function keys.flying() return P .. 'wfly' end -- hash: lane -> deliveries handed out
function keys.places(tenant) return P .. 'wplaces:' .. tenant end -- zset: the tenant's deliveries handed out, by end of lease
function keys.claimed(claim) return P .. 'wclaim:' .. claim end -- string: what a claim handed out, while its answer may be lost
function keys.failing() return P .. 'wbad' end -- zset: lanes whose last attempt failed, by when
function keys.resting() return P .. 'wrest' end -- zset: lanes to be looked at again, by when: their pace holds them back, or nobody served them
function keys.lanePace(lane) return P .. 'wp:' .. lane end -- string: when its next would be on time
function keys.sending() return P .. 'wout' end -- zset: deliveries handed out, by end of lease
function keys.sendingSwept() return P .. 'wswept' end -- string: when the last sweep of deliveries was
function keys.sendingGrace() return P .. 'wgrace' end -- string: there while no lease of a delivery says anything yet
function keys.retries() return P .. 'wdue' end -- zset: deliveries to be tried again, by when
function keys.deliveriesExpiring() return P .. 'wgone' end -- zset: deliveries, by when their record ends
function keys.serial() return P .. 'wseq' end -- string: counts deliveries and events of pools
-- t    tenant
-- us   as of a job
-- u    URL
-- ev   events
-- ir   include_result
-- fm   1 when OpenAI's form of events is wanted
-- sg   signature
-- mx   most a second
-- ct   created
-- dis  disabled since
-- why  why it is disabled
-- bad  failing since
-- k    secret
-- a    private key
-- k2   the secret before
-- a2   the private key before
-- x2   until when those sign too
-- h    value of a header of its own; a colon and the name follow
-- ca   certificates that vouch for its receiver too
function keys.endpoint(id) return P .. 'wh:' .. id end -- hash: an endpoint
function keys.endpoints(tenant) return P .. 'whs:' .. tenant end -- zset: the tenant's endpoints, by id
function keys.hooks(tenant) return P .. 'hooks:' .. tenant end -- hash: enabled endpoint -> its events and, behind a line's end, the user whose it is; no key, no cost
function keys.disabledHooks() return P .. 'whd' end -- zset: endpoints that their receivers' failures disabled, by when each was last looked at
function keys.poolHooks() return P .. 'whp' end -- hash: enabled endpoint that takes events of pools -> its tenant
-- k    secret
-- a    private key
-- k2   the secret before
-- a2   the private key before
-- x2   until when those sign too
function keys.secrets(tenant) return P .. 'wsec:' .. tenant end -- hash: the tenant's own keys
-- t    tenant
-- us   as of a job
-- k    kind
-- d    body
function keys.document(id) return P .. 'doc:' .. id end -- hash: what a form of the API keeps in its own way
function keys.content(id) return P .. 'part:' .. id end -- list: the chunks of a document's content, or where they lie
function keys.contents() return P .. 'parts' end -- zset: documents with content, by when its time is over

-- t    whose content it is
-- n    its bytes, which count to that tenant
-- r    1 when its chunks lie elsewhere
-- o    the name of the last chunk that was added
function keys.stock(id) return P .. 'stock:' .. id end -- hash: what the content of a document takes
function keys.documents(kind, tenant) return P .. 'docs:' .. kind .. ':' .. tenant end -- zset: a tenant's documents of a kind, by id
function keys.claims(tenant) return P .. 'docc:' .. tenant end -- zset: a tenant's documents that were claimed, by when their time is over
function keys.poolStates() return P .. 'wpool' end -- hash: pool -> the state that was told of last

-- Sealing: each tenant's own key, see tasks/seal.

-- id  of the key
-- m   the name of the master key that wraps it
-- w   the key, wrapped
function keys.sealKey(tenant) return P .. 'sk:' .. tenant end -- hash: the tenant's key
function keys.sealKeys() return P .. 'sks' end -- hash: tenant -> the id of its key
function keys.sealKnown() return P .. 'skm' end -- hash: process -> when it said which master keys it has, a space, and which, as JSON

-- Abuse, see api/abuse.

-- v  version
-- d  habits, the windows under way and what was found: keyed hashes and numbers alone
function keys.conduct(tenant) return P .. 'ab:' .. tenant end -- hash: how a tenant behaves
function keys.conducts() return P .. 'abs' end -- zset: tenants of which something was found, by when
