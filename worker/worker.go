// Package worker moves jobs through a provider: it takes what Asynq hands
// over, waits for the pool's pace, makes one attempt, and records what came of
// it.
//
// It promises that a job's end is recorded once, that waiting (for pace, for a
// pause, for a shutdown) uses up no attempt, and that a call is in the record
// before it is made. It never decides by Asynq's counts, never retries below
// its own rule, and never logs a prompt, a result or a key.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/trace"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/native"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Record is what a worker asks of the jobs' record.
type Record interface {
	Take(ctx context.Context, t tasks.Ticket) (tasks.Job, error)
	Start(ctx context.Context, t tasks.Ticket) (tasks.Started, []tasks.Ticket, error)
	End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error)
}

// Leases keeps the jobs that a worker holds.
type Leases interface {
	Renew(ctx context.Context, held []tasks.Ticket) (lost []string, err error)
	// Leave says that their worker stops: a call lost from now on is not held against its job.
	Leave(ctx context.Context, held []tasks.Ticket) error
}

// Feeder hands further jobs to Asynq when a start or an end made room.
type Feeder interface {
	Hand(ctx context.Context, list []tasks.Ticket) error
}

// Spill keeps on disk what the record does not take; *spill.Folder is one.
type Spill interface {
	KeepEnding(t tasks.Ticket, e tasks.Ending, why error) error
	KeepDelivery(s tasks.Settled, why error) error
}

// Caller asks a provider once.
type Caller interface {
	Do(ctx context.Context, ask upstream.Ask) upstream.Answer
}

// Gate is a pool's shared allowance.
type Gate interface {
	Run(ctx context.Context) error
	Take(ctx context.Context, n limit.Need) (limit.Grant, error)
	Confirm(ctx context.Context, g limit.Grant) (limit.Grant, error)
	SettleInput(ctx context.Context, g limit.Grant, inputTokens int64, seen *limit.Observed) error
	Settle(ctx context.Context, g limit.Grant, a limit.Actual) error
	Return(g limit.Grant)
	SoftRefusal(ctx context.Context) error
	Hold(ctx context.Context, d time.Duration, reason string) error
	Ramp(ctx context.Context, d time.Duration, reason string) error
	// Limits are what the allowance gives a minute now; 0: no limit.
	Limits() (requests, input, output int64)
}

// Health is told how each call ended and says what that means for the job. It
// holds a refusal that may concern the key until that is settled.
type Health interface {
	Report(ctx context.Context, c pool.Call, a upstream.Answer) pool.Standing
	// Held is how long the jobs of a model are to wait, for it fails while others do not.
	Held(ctx context.Context, model string) time.Duration
	// Paused finds out whether no calls are to be made. It, and what follows, is asked of listed
	// accounts alone: the queue of a pool that is one account stands still.
	Paused(ctx context.Context) bool
	// Shut is what is known of Paused, and Sick whether a model is held back; they ask nobody.
	Shut() bool
	Sick(model string) bool
	// Try tries a model that is held back, when that is due.
	Try(ctx context.Context, model string)
	// Gone returns a channel that is closed while this process cannot reach the
	// provider and others can: it takes no jobs of the pool and holds none.
	Gone() <-chan struct{}
}

// Pool is one upstream allowance and the way to its provider, or several accounts.
type Pool struct {
	Name        string
	Provider    string           // as the jobs' records name it
	Account     string           // as the list of attempts has it; "": as the provider
	Dialect     upstream.Dialect // of the provider
	Caller      Caller
	Gate        Gate
	Health      Health        // nil: nobody is told
	Accounts    []Account     // in place of Provider, Account, Caller, Gate and Health; none: the pool is one account
	Timeout     time.Duration // of one call; above 0, since the configuration has the default
	MaxAttempts int           // likewise
	CacheFor    time.Duration // how long the answer of a repeatable request serves again; 0: never
	Share       bool          // requests of a tenant that are the same and under way at once share one call
	Native      *native.Rules // which jobs go to the provider's own batch API; nil: none, and none is there
	Concurrency int           // jobs held by this process at once, waiting ones too; 0 means 64
}

// Config says what a Worker works with.
type Config struct {
	Redis  redis.UniversalClient // for Asynq alone: the worker puts a hook on it
	Prefix string                // of the queues, see [queue.Name]
	Record Record
	Leases Leases
	Texts  Texts
	Feeder Feeder
	Pools  []Pool
	// Answers keeps and shares answers for the pools that want it; nil: no pool does.
	Answers Answers
	// Bundles keeps what goes to the batch APIs of providers; nil: no pool uses one.
	Bundles Bundles
	// Detour returns the next fallback model that can answer a job whose attempts
	// are exhausted; false: none. Nil: no job has any.
	Detour func(ctx context.Context, j tasks.Job) (tasks.Detour, bool)
	// Prices are what models cost; none: no money is counted.
	Prices tasks.Prices
	// Spill takes endings that Redis refuses for KeepAfter, 0 meaning 60 s, while it
	// takes others, and those that are left at a stop. Nil: they are tried as long as
	// the worker runs, and given up when it stops.
	Spill     Spill
	KeepAfter time.Duration
	Trace     *trace.Tracer // nil: no spans are made
	// Large is how many answers above upstream.SmallBytes are in hand at once, of all
	// pools; others are read on when one is recorded. 0 means 8.
	Large int
	// RenewEvery is the pause between renewals of the leases; 0 means 2.5 s. It
	// has to be well below the record's lease.
	RenewEvery time.Duration
	// StartWithin is how long the record of a start may take for its call still to
	// be made; 0 means 5 s. It has to be well below the record's lease.
	StartWithin time.Duration
	// Grace is how long calls in flight may go on after Run's context ends; 0 means 30 s.
	Grace time.Duration
	// Now is the clock that the record's times are of; nil: time.Now.
	Now     func() time.Time
	Log     *slog.Logger          // nil: silent
	Metrics prometheus.Registerer // nil: none
}

// Worker takes jobs of its pools until it is told to stop.
type Worker struct {
	c      Config
	log    *slog.Logger
	server *server
	pools  map[string]*servedPool
	m      metrics
	pulse  *pulse
	room   *company // of the attempts that may make calls

	refusals refusals
	large    chan struct{} // holds a token for each large answer in hand

	mu   sync.Mutex
	held map[string]*attempt // by job id
}

// servedPool is a pool, and what this process keeps to serve it.
type servedPool struct {
	Pool
	accounts []*account
	gates    []Gate        // of the accounts, each once
	turns    *pool.Turns   // of the accounts that are listed; nil: none is, the pool is one account
	looks    chan struct{} // somebody wants to know how they stand
	budget   *budget
	native   *native.Lane // the way through batches; nil: there is none
	mean     atomic.Int64 // how long the last calls took on average, in nanoseconds
}

// lookEvery is how often it is found out, at most, how the listed accounts of a pool stand.
const lookEvery = 250 * time.Millisecond

// shutFor is how long nothing is taken from a pool whose gate this process cannot ask.
const shutFor = 5 * time.Second

// slowCall is the average time from which on the input of a call is settled when
// its answer begins. That costs one more call of Redis; at the end it would be
// too late.
const slowCall = 1500 * time.Millisecond

func (p *servedPool) slow() bool { return time.Duration(p.mean.Load()) > slowCall }

// took notes a call's time. A lost update of two at once does not matter.
func (p *servedPool) took(d time.Duration) { p.mean.Store(p.mean.Load() + (int64(d)-p.mean.Load())/8) }

// errLost ends the work on a job that is no longer this worker's:
// canceled by its caller, or given to another worker.
var errLost = errors.New("the job is no longer this worker's")

// afterGrace is what Asynq gives handlers beyond the grace period, to hand back
// the jobs that were cut off.
const afterGrace = 15 * time.Second

// New returns a Worker, or says what its configuration lacks.
func New(c Config) (*Worker, error) {
	if c.Redis == nil || c.Record == nil || c.Leases == nil || c.Texts == nil || c.Feeder == nil || len(c.Pools) == 0 {
		return nil, errors.New("worker: Redis, Record, Leases, Texts, Feeder and at least one pool are needed")
	}
	c.RenewEvery = cmp.Or(c.RenewEvery, 2500*time.Millisecond)
	c.StartWithin = cmp.Or(c.StartWithin, 5*time.Second)
	c.Grace = cmp.Or(c.Grace, 30*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	w := &Worker{c: c, log: c.Log, pools: map[string]*servedPool{}, held: map[string]*attempt{}, pulse: newPulse(), room: newCompany()}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.large = make(chan struct{}, cmp.Or(c.Large, 8))
	w.refusals.after = cmp.Or(c.KeepAfter, keepAfter)
	w.m = newMetrics(c.Metrics)
	w.server = newServer(serverConfig{redis: c.Redis, prefix: c.Prefix, grace: c.Grace, handBack: afterGrace, log: w.log})
	for _, cfg := range c.Pools {
		if err := w.serve(cfg); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *Worker) serve(cfg Pool) error {
	list := members(cfg)
	if cfg.Name == "" || !complete(list) || cfg.Timeout <= 0 || cfg.MaxAttempts <= 0 {
		return errors.New("worker: each pool needs a name, a caller, a gate, a timeout and a number of attempts")
	}
	if w.pools[cfg.Name] != nil {
		return fmt.Errorf("worker: pool %s is named twice", cfg.Name)
	}
	cfg.Concurrency = cmp.Or(cfg.Concurrency, 64)
	if w.c.Answers == nil {
		cfg.CacheFor, cfg.Share = 0, false
	}
	p := &servedPool{Pool: cfg, budget: newBudget(), accounts: list, gates: gates(list), looks: make(chan struct{}, 1)}
	p.turns = turns(cfg, p.accounts)
	p.native = w.lane(p)
	w.server.serve(cfg.Name, cfg.Concurrency, func() bool { return p.shut() || w.room.closed() }, w.handler(p))
	w.pools[cfg.Name] = p
	w.m.touch(cfg.Name)
	return nil
}

// Kick wakes this process's idle server of a pool, which holds n tasks more; 0
// when nobody knows how many.
func (w *Worker) Kick(pool string, n int) { w.server.kick(pool, n) }

// Cancel cuts off the call for a job, if this process makes it.
func (w *Worker) Cancel(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.held[id]; a != nil {
		a.lose(errLost)
	}
}

// Listen begins to publish the text of a job, if this process runs it.
func (w *Worker) Listen(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.held[id]; a != nil {
		a.text.want()
	}
}

// Run takes jobs until ctx ends. Then it takes no more, hands back the waiting
// ones, lets calls in flight finish within the grace period, and hands back the
// rest uncounted. All these jobs stay leased until it returns.
func (w *Worker) Run(ctx context.Context) error {
	parts, partsCtx := errgroup.WithContext(context.WithoutCancel(ctx)) // they outlive the calls
	partsCtx, stopParts := context.WithCancel(partsCtx)
	defer stopParts()
	runs := map[Gate]bool{} // an allowance may be shared
	for _, p := range w.pools {
		if p.turns != nil {
			parts.Go(func() error { return p.watch(partsCtx) })
		}
		if p.native != nil {
			parts.Go(func() error { return p.native.Run(partsCtx) })
		}
		for _, g := range p.gates {
			if !runs[g] {
				runs[g] = true
				parts.Go(func() error { return g.Run(partsCtx) })
			}
		}
	}
	parts.Go(func() error { return w.renew(partsCtx) })
	parts.Go(func() error { return w.pulse.run(partsCtx, w.inHand) })

	err := w.server.run(ctx, func() {
		select {
		case <-ctx.Done():
		case <-partsCtx.Done(): // a part ended by itself
		}
	})
	stopParts()
	return errors.Join(err, parts.Wait())
}

// handler turns the tasks of a pool's queue into attempts.
func (w *Worker) handler(p *servedPool) handler {
	return func(base context.Context, id string, task *asynq.Task) error {
		t, err := queue.Ticket(p.Name, id, task)
		if err != nil {
			return err
		}
		return w.attempt(p, t).run(base)
	}
}

// renew keeps the leases of all jobs in hand, and lets go of those that are lost.
func (w *Worker) renew(ctx context.Context) error {
	tick := time.NewTicker(w.c.RenewEvery)
	stopping, stops := w.server.stopping, false
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-stopping:
			stopping, stops = nil, true
		case <-tick.C:
		}
		w.mu.Lock()
		attempts := maps.Clone(w.held)
		held := make([]tasks.Ticket, 0, len(attempts))
		for _, a := range attempts {
			held = append(held, a.ticket)
		}
		w.mu.Unlock()
		if stops && len(held) > 0 {
			if err := w.c.Leases.Leave(ctx, held); err != nil && ctx.Err() == nil {
				w.log.Warn("a stop was not noted; calls that it cuts off count as lost", "jobs", len(held), "error", err)
			}
		}
		lost, err := w.c.Leases.Renew(ctx, held)
		if err != nil {
			if ctx.Err() == nil {
				w.log.Warn("leases were not renewed", "jobs", len(held), "error", err)
			}
			continue
		}
		w.refusals.passed()
		for _, id := range lost {
			if a := attempts[id]; a != nil { // a later attempt at the job may have begun here since
				a.lose(errLost)
			}
		}
	}
}

func (w *Worker) hold(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[a.ticket.ID] = a
	w.pulse.wake()
}

// inHand reports whether there is any job in hand.
func (w *Worker) inHand() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held) > 0
}

func (w *Worker) drop(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[a.ticket.ID] == a {
		delete(w.held, a.ticket.ID)
	}
}

// hand passes tickets on. One that is not enqueued now is found by a sweep.
func (w *Worker) hand(ctx context.Context, list []tasks.Ticket) {
	if len(list) == 0 {
		return
	}
	if err := w.c.Feeder.Hand(ctx, list); err != nil {
		w.log.Warn("jobs were not handed to the queue yet", "error", err)
	}
}
