// Package desk is what every form of the API does with a job: it finds the
// job's pool, checks and admits it, hands it to the store, waits for its result
// and keeps the first answer of an Idempotency-Key.
//
// It promises that what [Desk.Submit] and [Desk.SubmitBatch] return without an
// error the store has for good, that a tenant pays for nothing that was surely
// not taken in, and that a repeat of a key makes nothing. It knows no HTTP and
// no JSON: a form decodes a job before, and writes an answer after.
package desk

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/trace"
)

// Submitter accepts jobs.
type Submitter interface {
	// Submit returns once the job is durable. It fails with a *tasks.QuotaError,
	// tasks.ErrKeyReused, ErrKeyBusy, ErrIDTaken, ErrFull, ErrUnavailable or ErrUnknown.
	Submit(ctx context.Context, s tasks.Submission) (tasks.Accepted, error)
	// SaveAnswer keeps the first answer to a request with an Idempotency-Key, which
	// made the job or batch of that id; the first one saved stays.
	SaveAnswer(ctx context.Context, tenant, key, id string, answer []byte) error
	// Tokens reports how the tenant's tokens of the day stand.
	Tokens(ctx context.Context, tenant string) (tasks.DayTokens, error)
}

// Jobs is what the desk asks of the store about single jobs. Another tenant's
// job is tasks.ErrNotFound.
type Jobs interface {
	Submitter
	Job(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Retry queues a failed, canceled or expired job again; else tasks.ErrConflict.
	// Past a limit of its tenant it is a *tasks.QuotaError.
	Retry(ctx context.Context, tenant, id string, l tasks.Limits) (tasks.Job, error)
	// RetryAll does so with many. With an error, what is told was done all the same.
	RetryAll(ctx context.Context, sel tasks.Selection, l tasks.Limits) (tasks.Moved, error)
	// CancelAll cancels many that have not ended; errors are as of RetryAll.
	CancelAll(ctx context.Context, sel tasks.Selection) (tasks.Moved, error)
	// ReserveKey takes an Idempotency-Key for a call that makes nothing; tasks.ErrKeyReused
	// or ErrKeyBusy where it is not free. answer is what the first call was answered.
	ReserveKey(ctx context.Context, tenant, key, fingerprint, id string) (answer []byte, err error)
	// FreeKey gives it up.
	FreeKey(ctx context.Context, tenant, key, id string) error
}

// Opener opens a batch, of which nothing can be seen or run before it is committed.
type Opener interface {
	// OpenBatch reserves the id and the key; tasks.ErrKeyBusy while another request
	// holds one of them. prior is not nil when one was used before, and then nothing
	// was opened.
	OpenBatch(ctx context.Context, id, tenant, key string) (b tasks.Batch, prior *tasks.PriorBatch, err error)
	AbortBatch(ctx context.Context, id string) error
}

// Stager fills an open batch, in chunks, and commits it.
type Stager interface {
	// Unload puts what is large of jobs where it does not lie in Redis; after an error
	// nothing is there. Of jobs that do not come to be staged it is to be dropped.
	Unload(ctx context.Context, jobs ...*tasks.Job) error
	Drop(jobs []tasks.Job)
	// StageBatch is a *tasks.QuotaError past the bytes that the tenant may have.
	StageBatch(ctx context.Context, id string, jobs []tasks.Job, l tasks.Limits) error
	CommitBatch(ctx context.Context, id string, c tasks.BatchCommit) (tasks.Batch, error)
}

// Batches is what the desk asks of the store about batches.
type Batches interface {
	Opener
	Stager
	Batch(ctx context.Context, tenant, id string) (tasks.Batch, error)
}

// Notices tells of changes.
type Notices interface {
	// Watch is subscribed when it returns. changed signals each change of that
	// job or batch, several of them perhaps once; stop ends the subscription.
	Watch(ctx context.Context, id string) (changed <-chan struct{}, stop func(), err error)
	// WatchEnd does the same for the end alone. ended gives the job as it ended, or
	// nil: then it has to be looked for.
	WatchEnd(ctx context.Context, id string) (ended <-chan *tasks.Job, stop func(), err error)
}

// Pools knows where jobs go and how long they wait. Match and Estimate are
// called for each submit and should answer from memory.
type Pools interface {
	Match(model string) (pool string, ok bool)
	// MatchIn is Match among the pools of one dialect, "anthropic" or "openai".
	MatchIn(dialect, model string) (pool string, ok bool)
	// Adopt lends a job the fallback models of its pool where it has no list of its own.
	Adopt(job *tasks.Job)
	// PoolsIn lists the pools of a dialect.
	PoolsIn(dialect string) []string
	// InputLimit is how many input tokens a minute a pool takes; 0: any, or nobody knows.
	InputLimit(ctx context.Context, pool string) int64
	// Served lists the globs of the models that are served.
	Served() []string
	// Waiting says what a job waits for; a zero For means it waits for nothing.
	Waiting(ctx context.Context, j tasks.Job) (tasks.Waiting, error)
	// Barred is why a pool is paused where no wait helps, tasks.SpendLimited or
	// tasks.Unauthorized; "" where that is not so, or cannot be told.
	Barred(ctx context.Context, pool string) tasks.Outcome
	// Estimate is the time until the result of a job submitted now to a lane is expected.
	Estimate(ctx context.Context, pool, tenant string, lane tasks.Priority) (time.Duration, error)
	// Outlook is how the tenant's next jobs in a lane of the pool would fare.
	Outlook(ctx context.Context, pool, tenant string, lane tasks.Priority) (tasks.Outlook, error)
}

// Quota is a tenant's admission; *quota.Quota is one.
type Quota interface {
	Admit(ctx context.Context, tenant string, submits int64) (quota.Grant, error)
	Refund(ctx context.Context, tenant string, g quota.Grant) error
}

// Returns keeps those who were refused in the order in which they came; *quota.Returns does.
type Returns interface {
	Formed(tenant, pool string) bool
	Turn(ctx context.Context, tenant, pool, who string) (quota.Turn, error)
	Join(ctx context.Context, tenant, pool, who string, again quota.Again) (time.Duration, error)
}

// Config says what a desk works with. Jobs, Calls, Batches, Notices, Pools, NewID
// and Caps are required.
type Config struct {
	Prices  tasks.Prices // what models cost; none: no budget holds anybody
	Jobs    Jobs
	Calls   Calls
	Batches Batches
	Notices Notices
	Pools   Pools
	// Quota admits submits; nil: everybody, without limit.
	Quota Quota
	// Returns keeps a place for who was refused and comes again in time; nil: whoever comes first to one that is free has it.
	Returns Returns
	// High reports whether a tenant may use the lane high; nil: every one may.
	High func(tenant string) bool
	// Abuse looks at submits; nil: nobody does.
	Abuse Abuse
	// NewID returns a new id: the prefix ("job"), an underscore and something unique.
	NewID func(prefix string) string
	// CheckWebhookURL refuses an address that must not be called, by its text alone:
	// it is called for each, and must not look names up. It sees only absolute http
	// and https addresses without user information; nil: https only.
	CheckWebhookURL func(url string) error
	// Caps bounds what tenants hold at once. Required.
	Caps *caps.Room
	// RereadEvery bounds how late a held request sees a change whose notice was
	// lost; 0 means 5 s. Where there are no notices it looks each second at least.
	RereadEvery time.Duration
	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
	// Log takes what went wrong without a caller's being told; nil: nothing is logged.
	Log *slog.Logger
	// Trace makes the spans of submits; nil: none are made.
	Trace *trace.Tracer
	// Now is the clock that deadlines are compared with; nil means time.Now.
	Now func() time.Time
}

// Desk takes jobs in. It is ready when New returns; Drain makes it let go of the
// requests that it holds.
type Desk struct {
	c        Config
	accepted *prometheus.CounterVec
	held     prometheus.Gauge
	looks    looks
	stagings turns // writing of batches, by tenant
	unloads  turns // of what is large in them, likewise
	bulks    turns // bulk retries and cancellations, by tenant
	readings turns // of large bodies, by tenant

	processors processors // that read them

	joined, abandoned, kept prometheus.Counter

	drainOnce sync.Once
	draining  chan struct{}
}

// New returns a desk, or the error of registering its metrics.
func New(c Config) (*Desk, error) {
	c.RereadEvery = cmp.Or(c.RereadEvery, 5*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	d := &Desk{
		c: c, looks: looks{of: map[string]*looked{}}, draining: make(chan struct{}), processors: newProcessors(),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_jobs_accepted_total", Help: "Jobs accepted, by pool.",
		}, []string{"pool"}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_http_held_requests", Help: "Long polls and event streams that are open.",
		}),
	}
	d.joined = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sluice_calls_joined_total", Help: "Calls in a provider's form that were found to repeat another, and waited for its job.",
	})
	d.abandoned = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sluice_calls_abandoned_total", Help: "Calls in a provider's form whose caller went away before the answer.",
	})
	d.kept = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sluice_calls_kept_total", Help: "Calls in a provider's form that repeat another whose job had ended, and got the answer that was kept.",
	})
	if c.Registerer == nil {
		return d, nil
	}
	for _, m := range []prometheus.Collector{d.accepted, d.held, d.joined, d.abandoned, d.kept} {
		if err := c.Registerer.Register(m); err != nil {
			return nil, fmt.Errorf("register the desk's metrics: %w", err)
		}
	}
	return d, nil
}

// Drain makes held requests end now. It returns at once.
func (d *Desk) Drain() { d.drainOnce.Do(func() { close(d.draining) }) }

// Draining is closed by Drain.
func (d *Desk) Draining() <-chan struct{} { return d.draining }

// Caller is who asks.
type Caller struct {
	Tenant  string // or one user of it: see tasks.Owner
	Subject string // the token's
	Token   string // its id
	Address string // that it was sent from; "": not known
	Request string // the request's id, for the log
	// Models are globs of the models that its token is for; none: all.
	Models []string
	// Pools are globs of the pools that its token may use; none: all.
	Pools []string
	// Revoked is closed when its token is revoked; nil: never.
	Revoked <-chan struct{}
}
