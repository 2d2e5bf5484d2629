package desk

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
)

const (
	stageJobs    = 200       // jobs in one chunk at most
	stageBytes   = 512 << 10 // and bytes of their requests, about
	layingMost   = 2         // chunks under way beside the one that is read
	readAtOnce   = 8         // jobs that are read before others have their turn
	abortTimeout = 5 * time.Second
)

// Incoming is a batch on its way in.
type Incoming struct {
	ID  string // that the caller gave; "" for none
	Key string // Idempotency-Key; "" for none
	// Read calls take with each job of the batch in order, and returns its error.
	// line is 1-based, and size is about how many bytes the job has.
	Read func(take func(line int, job tasks.Job, size int) error) error
	// Staged is told how many bytes of what was taken are in memory no more; nil: nobody
	// wants to know.
	Staged func(bytes int)
	// Fingerprint digests what was read; it is asked after Read, when there is a key.
	Fingerprint func() string

	// Dialect is that of the only pools which take its jobs; "": any do.
	Dialect string
	// Faulty is what becomes of a job that is at fault: it is taken in and fails so by
	// itself, like one that comes with an error. Nil: the batch is refused.
	Faulty func(*fault.Fault) *tasks.JobError
	// Lasts is how long after the batch was begun its jobs end at the latest; 0: as they say.
	Lasts time.Duration
	// Digest is the same for requests that ask the same; it is asked after Read where
	// there is no key. Nil: this one is taken for the repeat of none.
	Digest func() string
	Repeat bool // the caller says that it sent the request before
}

// HandedBatch is a batch that was handed in.
type HandedBatch struct {
	Batch    tasks.Batch
	Pools    map[string]int // jobs by pool
	Grant    quota.Grant    // as in Handed
	Replayed bool           // the key was used before with the same content
	Answer   []byte         // the answer kept then; nil: none is

	desk *Desk
	call tasks.Call
	sent tasks.CallerState
}

// Sent notes that the answer has left for the caller: until then it counts as lost, and
// the batch as the one that a repeat asks for.
func (h *HandedBatch) Sent(ctx context.Context) {
	if h.call.Digest != "" {
		(&Answered{desk: h.desk, call: h.call}).became(ctx, h.sent)
	}
}

// Upload counts a batch that is being sent, until release is called; it is to be asked
// before the first byte is read. A tenant that sends too many already is refused.
func (d *Desk) Upload(tenant string) (release func(), err error) {
	return d.c.Caps.Upload(tasks.TenantOf(tenant))
}

// Limits are those of a tenant, for whoever keeps something of its that is no submit.
func (d *Desk) Limits(ctx context.Context, tenant string) (tasks.Limits, error) {
	if d.c.Quota == nil {
		return tasks.Limits{}, nil
	}
	grant, err := d.c.Quota.Admit(ctx, tenant, 0)
	var full *tasks.QuotaError
	if errors.As(err, &full) {
		err = nil // it takes none
	}
	return grant.Limits, err
}

// SubmitBatch takes a batch in job by job; nothing of it exists for anybody
// until all of it was read. HandedBatch counts beside an error too: its grant is
// told to whoever was admitted.
func (d *Desk) SubmitBatch(ctx context.Context, c Caller, b Incoming) (h HandedBatch, err error) {
	grant, err := d.admit(ctx, c.Tenant)
	if err != nil {
		return h, err
	}
	h.Grant = grant
	id := cmp.Or(b.ID, d.c.NewID("batch"))
	span := d.c.Trace.Submit(ctx, id, tasks.TenantOf(c.Tenant))
	defer func() { ended(span, err, h.Replayed, h.Batch.ID, slices.Sorted(maps.Keys(h.Pools))...) }()
	g, prior, err := d.c.Batches.OpenBatch(ctx, id, c.Tenant, b.Key)
	if err != nil {
		if tasks.Away(err) {
			d.abort(ctx, c.Request, id) // it may be open, and hold the key
		}
		return h, d.refused(ctx, c.Tenant, grant, id, err)
	}
	h.Pools = map[string]int{}
	in := &intake{
		desk: d, tenant: c.Tenant, batch: g.ID, limits: grant.Limits, staging: prior == nil,
		lines: Lines{Match: d.c.Pools.Match, Served: d.c.Pools.Served, Caller: &c}, pools: h.Pools, told: b.Staged, dialect: b.Dialect, faulty: b.Faulty, trace: span.Trace(),
	}
	if b.Lasts > 0 {
		in.until = g.CreatedAt.Add(b.Lasts)
	}
	if in.told == nil {
		in.told = func(int) {}
	}
	if prior != nil {
		d.refund(ctx, c.Tenant, grant)
		err := d.replayBatch(ctx, &h, in, b, prior)
		return h, err
	}
	if h.Batch, err = in.commit(ctx, b, &h); err != nil {
		// An abort takes nothing back that was committed, should a store whose answer
		// was lost have done so.
		d.abort(ctx, c.Request, id)
		var repeats *tasks.RepeatError
		if errors.As(err, &repeats) {
			return d.joinBatch(ctx, c.Tenant, h, repeats)
		}
		return h, d.laterOf(ctx, c.Tenant, tasks.Normal, h.Pools, d.refused(ctx, c.Tenant, grant, id, err))
	}
	d.sawMany(&c, len(in.lines.seen), in.tokens, in.cost)
	h.Grant = d.withTokens(ctx, c.Tenant, grant)
	for pool, n := range h.Pools {
		d.accepted.WithLabelValues(pool).Add(float64(n))
	}
	return h, nil
}

// joinBatch gives the batch of the request that this one repeats.
func (d *Desk) joinBatch(ctx context.Context, tenant string, h HandedBatch, r *tasks.RepeatError) (HandedBatch, error) {
	d.refund(ctx, tenant, h.Grant)
	d.joined.Inc()
	h.Replayed, h.call.ID, h.sent = true, r.ID, tasks.CallerServed
	if r.Again {
		h.sent = tasks.CallerDone
	}
	var err error
	h.Batch, err = d.c.Batches.Batch(ctx, tenant, r.ID)
	return h, err
}

// replayBatch finds the batch whose key or id was used before. What was sent has to be
// read to its end to know whether it is the same.
func (d *Desk) replayBatch(ctx context.Context, h *HandedBatch, in *intake, b Incoming, prior *tasks.PriorBatch) (err error) {
	if err := in.read(ctx, b.Read); err != nil {
		return err
	}
	switch {
	case prior.Fingerprint == "" && prior.Lines != int64(len(in.lines.seen)):
		return tasks.ErrIDTaken
	case prior.Fingerprint != "" && b.Fingerprint() != prior.Fingerprint:
		return &tasks.ReusedError{ID: prior.ID}
	}
	h.Replayed, h.Answer = true, prior.Answer
	h.Batch, err = d.c.Batches.Batch(ctx, in.tenant, prior.ID)
	if errors.Is(err, tasks.ErrNotFound) {
		return fault.Fail(fault.NotFound, "The batch of this Idempotency-Key has outlived its time; send it with another key to run it again.")
	}
	return err
}

// abort has a batch forgotten that will not be committed. It is done also when
// the caller has gone; what it misses, the store's sweep finds.
func (d *Desk) abort(ctx context.Context, request, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := d.c.Batches.AbortBatch(ctx, id); err != nil {
		d.c.Log.LogAttrs(ctx, slog.LevelWarn, "abort a batch", slog.String("request_id", request), slog.Any("error", err))
	}
}

// Lines checks the jobs of one batch, or of a file of prompts, against each
// other and against the pools.
type Lines struct {
	Match func(model string) (pool string, ok bool) // required
	// Served lists the globs of models that errors name; nil: they name none.
	Served func() []string
	// Caller is who sends them; nil: anybody, for any model.
	Caller *Caller

	seen map[string]int // custom id to line
}

// Check sets the job's line, custom id and pool. It fails with a *[fault.Fault].
func (l *Lines) Check(line int, job *tasks.Job) error {
	if err := l.number(line, job); err != nil {
		return err
	}
	return place(l.Match, l.Served, job)
}

// number is the part of Check that needs no pool.
func (l *Lines) number(line int, job *tasks.Job) error {
	if l.seen == nil {
		l.seen = map[string]int{}
	}
	if job.Line = line; job.CustomID == "" {
		job.CustomID = strconv.Itoa(line)
	}
	if first, twice := l.seen[job.CustomID]; twice {
		return fault.Fail(fault.InvalidRequest, `The "custom_id" is that of line %d already.`, first)
	}
	l.seen[job.CustomID] = line
	if l.Caller != nil && job.Error == nil { // one that is at fault asks for nothing
		if err := l.Caller.may(job); err != nil {
			return err
		}
	}
	return nil
}

// intake takes in the jobs of one batch.
type intake struct {
	desk    *Desk
	tenant  string
	batch   string
	trace   string       // of its jobs, see [tasks.Job.Traced]
	limits  tasks.Limits // of the tenant
	lines   Lines
	staging bool // false: only compare, keep nothing
	dialect string
	faulty  func(*fault.Fault) *tasks.JobError
	until   time.Time // each job's deadline at the latest; zero: none

	reserved int64       // tokens of all jobs so far
	weight   int64       // bytes of them
	tokens   int64       // that they may take
	cost     tasks.Money // at most

	chunk []tasks.Job
	bytes int             // of the chunk, about
	told  func(bytes int) // of what is in memory no more
	under []*laying       // the chunks under way, in order
	pools map[string]int  // jobs by pool
}

// laying is a chunk on its way into the store.
type laying struct {
	jobs  []tasks.Job
	bytes int
	done  chan struct{} // closed when err is set
	err   error         // its own, or that of one before it
}

// read takes in the whole batch. Nothing is under way when it returns.
func (in *intake) read(ctx context.Context, read func(take func(line int, job tasks.Job, size int) error) error) (err error) {
	defer func() {
		for len(in.under) > 0 {
			if last := in.staged(); err == nil {
				err = last
			}
		}
	}()
	if err := read(func(line int, job tasks.Job, size int) error { return in.take(ctx, line, job, size) }); err != nil {
		return err
	}
	if len(in.lines.seen) == 0 {
		return fault.Fail(fault.InvalidRequest, "The batch has no jobs.")
	}
	return in.stage(ctx)
}

// commit takes in the whole batch and has it accepted. What it costs is known only
// at its end.
func (in *intake) commit(ctx context.Context, b Incoming, h *HandedBatch) (tasks.Batch, error) {
	if err := in.read(ctx, b.Read); err != nil {
		return tasks.Batch{}, err
	}
	commit := tasks.BatchCommit{Lines: int64(len(in.lines.seen)), Limits: in.limits, Dialect: in.desk.dialectOf(in.pools)}
	if b.Key != "" {
		commit.Fingerprint = b.Fingerprint()
	} else if b.Digest != nil {
		commit.Digest, commit.Repeat = b.Digest(), b.Repeat
		h.desk, h.sent, h.call = in.desk, tasks.CallerServed, tasks.Call{Tenant: in.tenant, ID: in.batch, Digest: commit.Digest}
	}
	return in.desk.c.Batches.CommitBatch(ctx, in.batch, commit)
}

// dialectOf is the dialect of all of some pools; "" where they are of several.
func (d *Desk) dialectOf(pools map[string]int) string {
	for _, dialect := range []string{"anthropic", "openai"} {
		left := len(pools)
		for _, pool := range d.c.Pools.PoolsIn(dialect) {
			if _, has := pools[pool]; has {
				left--
			}
		}
		if left == 0 {
			return dialect
		}
	}
	return ""
}

// take checks one job and lays it down for staging.
func (in *intake) take(ctx context.Context, line int, job tasks.Job, size int) error {
	if line%readAtOnce == 0 {
		runtime.Gosched() // a batch of many lines is a long way to go for a processor
	}
	if err := in.lines.number(line, &job); err != nil {
		return err
	}
	if err := in.desk.Lane(in.tenant, &job); err != nil {
		return err
	}
	if err := in.place(ctx, &job); err != nil {
		return err
	}
	in.pools[job.Pool]++
	if !in.staging {
		in.told(size)
		return nil
	}
	if err := in.fits(ctx, &job); err != nil {
		return err
	}
	job.ID, job.Batch = in.desk.c.NewID("job"), in.batch
	job.Tenant, job.User = tasks.SplitOwner(in.tenant)
	if !in.until.IsZero() && (job.Deadline.IsZero() || job.Deadline.After(in.until)) {
		job.Deadline = in.until
	}
	in.tokens, in.cost = in.tokens+job.Request.Tokens(), in.cost+job.AtMost
	job.Reserved, job.Trace = in.limits.Reserves(&job.Request), in.trace
	in.chunk = append(in.chunk, job)
	if in.bytes += size; len(in.chunk) == stageJobs || in.bytes >= stageBytes {
		return in.stage(ctx)
	}
	return nil
}

// place finds the job's pool. One that is at fault gets the error that it fails with,
// and a pool of its dialect to be counted in, where the batch is to have such jobs.
func (in *intake) place(ctx context.Context, job *tasks.Job) error {
	d := in.desk
	if in.dialect == "" {
		if err := place(in.lines.Match, in.lines.Served, job); err != nil {
			return err
		}
		if err := d.within(in.lines.Caller, in.lines.Match, job); err != nil {
			return err
		}
		return d.CheckWebhookURL("webhook_url", job.WebhookURL)
	}
	if job.Error == nil {
		err := d.placeIn(in.dialect, job)
		if err == nil {
			if refused := d.within(in.lines.Caller, d.in(in.dialect), job); refused != nil {
				return refused // all of the batch is, as by a model
			}
			err = d.fits(ctx, job, in.limits)
		}
		var f *fault.Fault
		if err == nil || in.faulty == nil || !errors.As(err, &f) {
			return err
		}
		job.Error = in.faulty(f)
	}
	pools := d.c.Pools.PoolsIn(in.dialect)
	if len(pools) == 0 {
		return fault.Fail(fault.ModelNotFound, "No pool is configured for a provider of this form.")
	}
	if at := slices.IndexFunc(pools, func(pool string) bool { return in.lines.Caller.mayUse(pool) == nil }); at >= 0 {
		pools = pools[at:]
	} else if err := in.lines.Caller.mayUse(pools[0]); err != nil {
		return err
	}
	job.Pool, job.Fallback = pools[0], nil
	job.Request.InputTokens, job.Request.OutputTokens, job.Request.MaxTokens = 0, 0, 0 // it takes none
	return nil
}

// fits refuses a batch that is more than its tenant may ever have at once, as soon
// as that shows.
func (in *intake) fits(ctx context.Context, job *tasks.Job) error {
	if job.Error == nil {
		if err := in.desk.fits(ctx, job, in.limits); err != nil {
			return err
		}
	}
	for of, each := range daily(in.limits) {
		if most := each.QueuedJobs; most > 0 && int64(len(in.lines.seen)) > most {
			return fault.Fail(fault.ImpossibleSize, "The batch has more than %d jobs, which is all that the quota %squeued_jobs lets wait: send it in parts.", most, of)
		}
	}
	if in.weight += job.Bytes; in.limits.QueuedBytes > 0 && in.weight > in.limits.QueuedBytes {
		return fault.Fail(fault.ImpossibleSize, "The batch has more than %d bytes, which is all that the quota queued_bytes lets wait: send it in parts.", in.limits.QueuedBytes)
	}
	in.reserved += in.limits.Reserves(&job.Request)
	for of, each := range daily(in.limits) {
		if most := each.TokensPerDay; most > 0 && in.reserved > most {
			return fault.Fail(fault.ImpossibleSize, "The batch may take %d tokens up to here, and the quota %stokens_per_day is %d: send less of it a day.", in.reserved, of, most)
		}
	}
	return nil
}

// stage hands the chunk to the store, which writes it while the next is read; it waits
// where too many are under way.
func (in *intake) stage(ctx context.Context) error {
	for len(in.under) > 0 && (len(in.under) == layingMost || in.under[0].over()) {
		if err := in.staged(); err != nil {
			return err
		}
	}
	if len(in.chunk) == 0 {
		return nil
	}
	l := &laying{jobs: in.chunk, bytes: in.bytes, done: make(chan struct{})}
	var before *laying
	if n := len(in.under); n > 0 {
		before = in.under[n-1]
	}
	in.under = append(in.under, l)
	in.chunk, in.bytes = make([]tasks.Job, 0, stageJobs), 0
	go func() {
		defer close(l.done)
		l.err = in.lay(ctx, l.jobs, before)
	}()
	return nil
}

func (l *laying) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// lay writes jobs of the batch: what is large in them while the chunk before is written, the
// rest behind it, if that came to be written. Of one tenant's batches only one is written at a
// time: ten at once would have ten scripts stand in Redis's line before everybody else's.
func (in *intake) lay(ctx context.Context, jobs []tasks.Job, before *laying) error {
	err := in.unload(ctx, jobs)
	if before != nil {
		<-before.done
		err = cmp.Or(before.err, err)
	}
	var end func()
	if err == nil {
		end, err = in.desk.stagings.take(ctx, in.tenant)
	}
	if err != nil {
		in.desk.c.Batches.Drop(jobs)
		return err
	}
	defer end()
	return in.desk.c.Batches.StageBatch(ctx, in.batch, jobs, in.limits)
}

// unload puts what is large where it is to lie, of one chunk of a tenant at a time.
func (in *intake) unload(ctx context.Context, jobs []tasks.Job) error {
	end, err := in.desk.unloads.take(ctx, in.tenant)
	if err != nil {
		return err
	}
	defer end()
	list := make([]*tasks.Job, len(jobs))
	for i := range jobs {
		list[i] = &jobs[i]
	}
	return in.desk.c.Batches.Unload(ctx, list...)
}

// staged waits for the first chunk under way.
func (in *intake) staged() error {
	l := in.under[0]
	<-l.done
	in.under = in.under[1:]
	in.told(l.bytes)
	return l.err
}
