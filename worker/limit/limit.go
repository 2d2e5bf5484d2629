// Package limit is the gate of a pool: one allowance of requests, input tokens,
// output tokens and concurrent calls, shared by any number of processes.
//
// It promises that the calls of all processes together stay inside the
// allowance and leave nothing of it unused while work waits; that calls are let
// through in the order in which they asked, large ones included; that a call
// costs one question to Redis and one settlement; and that without Redis nothing
// passes.
//
// It never sends anything, never retries a call, never looks at a prompt, and
// never reads the clock of a process to decide on an allowance: Redis's clock is
// the only one.
//
// # Use
//
// A process makes one [Gate] for a pool with [New] and keeps [Gate.Run] running.
// Before each call it asks [Gate.Take], which returns when the call may be sent,
// and right before it sends [Gate.Confirm], which takes another place when the process
// stood still meanwhile. Afterwards it tells [Gate.Settle] what the call used, and what the
// provider's headers said. A refusal is told too: a short one by
// [Gate.SoftRefusal], a longer one by [Gate.Hold], one for a rise of use by
// [Gate.Ramp]. [Gate.State] says how the gate stands and how long work has to wait.
//
// # How
//
// Each dimension is a continuous token bucket, mirrored in Redis. Take books the
// next free place in all dimensions at once, in one script, and is told when to
// send. What a call will use is booked as expected: the input as estimated, the
// output as the mean of its class ([Need.Class]). Settle replaces the expectation
// by the real figures, so a level may be in debt for a while, and a guard,
// computed from the variance of what is under way, is kept free in each bucket.
//
// The scripts are in the folder lua: state.lua has the keys, the arguments and the
// table of the state's fields, and is the file to begin with. pace, guard, ledger,
// learn, book and line are its further chapters; each script (take, settle, renew,
// leave, steer, peek, describe) is preceded by those that it needs, see scripts.go.
package limit

import (
	"cmp"
	"container/list"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// ErrStopped is what [Gate.Take] returns once [Gate.Run] has ended: nobody asks for slots any more.
var ErrStopped = errors.New("limit: the gate's pump has stopped")

// ErrShut is what [Gate.Take] returns, also to those who wait, when Redis has answered for
// some seconds that the gate cannot be asked, as it does of a state that a newer release
// has written, or to a user without the permission. Others may be able to: their calls
// are for them. It is not returned while Redis is away, full or starting.
var ErrShut = errors.New("limit: the gate cannot be asked by this process")

// Limits are an allowance. Zero means no limit in that dimension.
type Limits struct {
	RequestsPerMinute     int64
	InputTokensPerMinute  int64
	OutputTokensPerMinute int64
	// RequestBurst is how many requests the provider takes at once. A fifth of
	// it, at most two, stays unused as a guard. Zero means one second's worth
	// of RequestsPerMinute, at least 1 and at most 10, and above 6,000 a minute
	// a tenth of a second's worth.
	RequestBurst int
	// Concurrency is the number of calls under way at once.
	Concurrency int
}

// burst is RequestBurst or its default.
func (l Limits) burst() int64 {
	switch {
	case l.RequestBurst > 0:
		return int64(l.RequestBurst)
	case l.RequestsPerMinute <= 0:
		return 10
	}
	return max(1, min(10, l.RequestsPerMinute/60), l.RequestsPerMinute/600)
}

// Config describes a gate.
type Config struct {
	// Redis keeps the allowance. Required.
	Redis redis.UniversalClient
	// Pool names the allowance; processes with the same name share it. Required,
	// without braces and white space.
	Pool string
	// Prefix begins the names of the keys and of the channel; gates with different
	// prefixes share nothing, in one Redis and over its databases, which share
	// channels. Zero means "sluice". Without braces and white space.
	Prefix string
	// Limits is the allowance. All processes of a pool should be given the same.
	Limits Limits
	// FollowProvider lets limits rise above the configured ones when the
	// provider's headers say so. When false, headers only lower them, or fill in
	// one that is not configured: a configured limit is then a share that is
	// never exceeded.
	FollowProvider bool
	// Timeout is the longest that a call may take. A reservation that nobody
	// settled ends 30 s later. Zero means 10 minutes.
	Timeout time.Duration
	// Log receives what an operator should know: Redis gone and back, state
	// lost. Nil means slog.Default().
	Log *slog.Logger
	// Metrics is where the gate's metrics are registered. Nil means nowhere.
	// Gates of several pools may share one.
	Metrics prometheus.Registerer

	// Now replaces Redis's clock for a simulation, which asks by [Gate.Book] and needs no
	// [Gate.Run]. Nil means Redis's own.
	Now func() time.Time

	// now replaces Redis's clock, in seconds, and clock the process's; tests set them.
	now   func() float64
	clock clock
	// lease is how long a holder counts as alive without a sign. Zero means 20 s.
	lease time.Duration
}

// Gate is one process's door to a pool's allowance. Its methods may be called
// from any goroutine.
type Gate struct {
	cfg         Config
	rdb         redis.UniversalClient
	log         *slog.Logger
	clock       clock
	m           *metrics
	keys        []string
	common      common // but for the epoch
	channel     string
	holder      string
	handedSlack time.Duration // of a place that was handed over: no script says it
	epoch       atomic.Int64
	serial      atomic.Uint64
	running     atomic.Bool
	subscribed  atomic.Bool              // the subscription stands
	limits      atomic.Pointer[[3]int64] // a minute, by dimension, as the last settlement found them

	mu         sync.Mutex
	queue      list.List // of *waiter, first come first served
	stopped    bool
	handed     []answer             // booked for us in line
	unsettled  map[string]time.Time // our unsettled reservations, until when to renew for them
	unsent     map[string]Grant     // those that nobody has confirmed; by key
	late       []settlement         // those whose time has passed, until Redis knows
	usual      time.Duration        // from the time of a place until it is confirmed, see late.go; below 0: not known
	ledger     []settlement         // what Redis has not been told yet
	holdUntil  time.Time            // as far as this process knows
	holdsNoted int                  // how often a hold was noted
	freedTimes int                  // how often a hold ended or the pace changed
	inLine     string               // the reservation that the pump stands in line for, or empty
	slotAhead  bool                 // the pump sleeps until a slot's send time
	bound      string               // what the head of the queue last had to wait for,
	boundAt    time.Time            // and until when
	stuck      bool                 // the head of the queue has to wait, and so all behind it

	wakePump, wakeQueue, wakeLedger chan struct{}
}

// notInNames would end a hash tag or a word of a message.
const notInNames = "{} \t\r\n"

// New returns a gate, which [Gate.Run] sets to work. It does not touch Redis. The
// error names the field of [Config] that cannot be used.
func New(cfg Config) (*Gate, error) {
	if cfg.Redis == nil {
		return nil, errors.New("limit: Config.Redis is missing")
	}
	if cfg.Pool == "" || strings.ContainsAny(cfg.Pool, notInNames) {
		return nil, fmt.Errorf("limit: Config.Pool %q: want a name without braces and white space", cfg.Pool)
	}
	if strings.ContainsAny(cfg.Prefix, notInNames) {
		return nil, fmt.Errorf("limit: Config.Prefix %q: want a name without braces and white space", cfg.Prefix)
	}
	l := cfg.Limits
	for _, v := range []int64{l.RequestsPerMinute, l.InputTokensPerMinute, l.OutputTokensPerMinute, int64(l.RequestBurst), int64(l.Concurrency)} {
		if v < 0 {
			return nil, fmt.Errorf("limit: pool %s: a limit below zero: %d", cfg.Pool, v)
		}
	}
	cfg.Prefix = cmp.Or(cfg.Prefix, "sluice")
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Minute
	}
	if cfg.lease <= 0 {
		cfg.lease = 20 * time.Second
	}
	if cfg.Now != nil {
		cfg.now = func() float64 { return float64(cfg.Now().UnixMicro()) / 1e6 }
	}
	if cfg.clock == nil {
		cfg.clock = systemClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	m, err := newMetrics(cfg.Metrics, cfg.Pool)
	if err != nil {
		return nil, fmt.Errorf("limit: register metrics: %w", err)
	}
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("limit: make a holder's name: %w", err)
	}
	keys, channel := names(cfg.Prefix, cfg.Pool)
	g := &Gate{
		cfg: cfg, rdb: cfg.Redis, log: cfg.Log.With("pool", cfg.Pool), clock: cfg.clock, m: m,
		keys: keys, channel: channel, holder: hex.EncodeToString(id[:]),
		unsettled: map[string]time.Time{}, unsent: map[string]Grant{}, usual: -1,
		wakePump: make(chan struct{}, 1), wakeQueue: make(chan struct{}, 1), wakeLedger: make(chan struct{}, 1),
	}
	g.common = common{
		Holder: g.holder, Lease: cfg.lease.Seconds(),
		Limits: [3]int64{l.RequestsPerMinute, l.InputTokensPerMinute, l.OutputTokensPerMinute},
		Burst:  l.burst(), Concurrency: l.Concurrency,
		Channel: g.channel, Lifetime: (cfg.Timeout + 30*time.Second).Seconds(),
	}
	g.handedSlack = l.slack()
	return g, nil
}

// Limits are what the allowance gives a minute now, as far as this process has seen: as
// configured, or as the provider says. 0: no limit.
func (g *Gate) Limits() (requests, input, output int64) {
	if now := g.limits.Load(); now != nil {
		return now[0], now[1], now[2]
	}
	l := g.common.Limits
	return l[0], l[1], l[2]
}

// Configured is the allowance as it was given to [New].
func (g *Gate) Configured() Limits { return g.cfg.Limits }

// Need is what a call asks [Gate.Take] for.
type Need struct {
	// ID says whose call it is, to an operator who reads the reservations. It
	// need not be unique. White space is not allowed.
	ID string
	// Class groups calls of like size: their mean output is what the next one is
	// expected to use. A good class is model, order of max_tokens, thinking.
	Class string
	// InputTokens is an estimate of the input; how far estimates are off, and how
	// much of the input is read from a cache and not counted, is learned by class.
	// Zero means: what the class usually has.
	InputTokens int64
	// MaxTokens caps the expected output. Zero means no cap.
	MaxTokens int64
	// Within is how long from now the call is of use; zero: however late. A place that comes
	// later is given back at once, and [Gate.Take] returns a [LateError].
	Within time.Duration
	// Waits is called, once at most, when the call cannot be sent at once: it stands behind
	// others, or has to wait for its own place. It must not block. Nil: nobody is told.
	Waits func()
}

// LateError is what [Gate.Take] returns to a call whose place would have come too late
// for it. It has taken nothing.
type LateError struct {
	Wait time.Duration // until that place
}

func (e *LateError) Error() string {
	return fmt.Sprintf("limit: the call could be sent in %v, which is too late for it", e.Wait)
}

// Grant is a booked place, from [Gate.Take]. It has to be settled, once.
type Grant struct {
	ID    string
	Class string
	// Bound is what the call had to wait for, as in [State.Binds]: its own place, or, in
	// the queue of its process, the calls before it. Empty when it did not wait, or for a
	// hold alone.
	Bound string

	gate  *Gate
	key   string
	epoch int64
	need  Need
	due   time.Time     // when it may be sent, at the earliest
	slack time.Duration // how much later it may be; below 0: for ever
}

// Gate is where the place was taken, and is to be settled; nil of the zero Grant.
func (g Grant) Gate() *Gate { return g.gate }

// Actual is what a call used, for [Gate.Settle].
type Actual struct {
	// InputTokens and OutputTokens are what the provider counted against the
	// allowance: input without what was read from its cache.
	InputTokens, OutputTokens int64
	// Known says that both are known. Otherwise the call is taken to have used
	// what was expected of it, for it may have been charged.
	Known bool
	// Refused says that the provider turned the call away without charging, or
	// that it was never sent: the reservation is handed back.
	Refused bool
	// Observed is what the provider's headers said, if anything.
	Observed *Observed
}

// Reading is what one dimension's rate-limit headers said.
type Reading struct {
	Limit, Remaining       int64
	HasLimit, HasRemaining bool
}

// Observed is what the rate-limit headers of an answer said, a [Reading] for each
// dimension.
type Observed struct {
	Requests, InputTokens, OutputTokens Reading
	// Rounding is the step to which Remaining of tokens is rounded: 1,000 with
	// Anthropic. Zero means 1,000.
	Rounding int64
	// Age is how long ago the headers came. Of older ones than 2 s only limits
	// are used: the level has moved since.
	Age time.Duration
}

// answer is a script's decision on one reservation.
type answer struct {
	status string // ok, hold, far, full; again: ask anew
	wait   time.Duration
	key    string
	epoch  int64
	at     time.Time // when it reached us
	asked  time.Time // when it was asked for, or, of one that was handed over, at
	slack  time.Duration
	bound  string // what the wait is for, as in Grant
}

// settlement is one call of the settle script.
type settlement struct {
	grant   Grant
	how     string // used, expected, input, back
	in, out int64
	seen    *Observed
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits for d or for ctx's end.
func (g *Gate) pause(ctx context.Context, d time.Duration) {
	due, stop := g.clock.timer(d)
	defer stop()
	select {
	case <-due:
	case <-ctx.Done():
	}
}

// run calls a script and returns the epoch, which every reply begins with, and
// the rest.
func (g *Gate) run(ctx context.Context, s *script, a arguments) (epoch int64, reply []string, err error) {
	var now any = ""
	if g.cfg.now != nil {
		now = g.cfg.now()
	}
	known := g.epoch.Load()
	with := g.common
	with.Epoch = strconv.FormatInt(known, 10)
	a.fill(with)
	body, err := json.Marshal(a)
	if err != nil {
		return 0, nil, fmt.Errorf("encode the arguments of %s: %w", s.name, err)
	}
	out, err := s.redis.Run(ctx, g.rdb, g.keys, now, body).Slice()
	if err != nil {
		return 0, nil, err
	}
	reply = make([]string, len(out))
	for i, v := range out {
		switch v := v.(type) {
		case string:
			reply[i] = v
		case int64:
			reply[i] = strconv.FormatInt(v, 10)
		default:
			return 0, nil, fmt.Errorf("script answered %T", v)
		}
	}
	if len(reply) == 0 {
		return 0, nil, errors.New("script answered nothing")
	}
	epoch, err = parseEpoch(reply[0])
	if err != nil {
		return 0, nil, err
	}
	if known != epoch && g.epoch.CompareAndSwap(known, epoch) && known != 0 {
		g.m.lost.Inc()
		g.log.WarnContext(ctx, "the gate's state in Redis was lost; it starts empty")
	}
	return epoch, reply[1:], nil
}
