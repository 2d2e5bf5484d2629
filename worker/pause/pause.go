// Package pause stops a pool while its provider cannot serve it, and starts it
// again by itself: a [Breaker] shared by all processes, which owns its pauses.
// [Breaker.Record] takes how each call ended, [Breaker.Run] keeps queue and gate in
// line, and [Breaker.State] tells where it stands.
//
// It promises that
//   - the pool's [Queue] is paused exactly while an operator holds the pool, the
//     breaker is open or Redis is nearly full ([Breaker.Memory]); a loop in every process brings the queue and the [Gate] in
//     line with the state each second, whichever process dies between two steps;
//   - what an operator paused ([Breaker.Pause]), also with another tool, only an
//     operator resumes ([Breaker.Resume]);
//   - with [Config.Ask], failures open the breaker only when every process that is
//     asked finds no model that answers; a model that fails alone is held back alone,
//     and a process that fails alone is told so ([Config.Cut]);
//   - one process at a time probes the provider, and its crash delays the next
//     probe by one lease at most;
//   - the way back is a ramp, not a herd;
//   - all clocks are Redis's, and no lock is held during a call.
//
// It never counts a refusal of a single request against the provider, never calls
// a provider on behalf of a pool that an operator holds, and never sees a prompt,
// a result or a key.
//
// # Loss of state
//
// When Redis loses everything, the queue's pause goes with it. Processes that
// still run put an operator's pause back from memory; the breaker starts closed,
// and a provider that is still down trips it again within a few calls. When only
// this package's keys are lost and the queue is still paused, a running process
// remembers whose pause it was. When none remembers, the pause counts as an
// operator's: it shows as paused by "unknown" and stays until an operator
// resumes it, since a pause that stays is seen, and one that goes may cost money.
package pause

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	randv2 "math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

// MaxReason is how many characters are kept of an operator's reason or name.
const MaxReason = 500

const (
	auditMax   = 1000                   // entries kept
	fresh      = 250 * time.Millisecond // age at most of a cached state, and of a success not yet counted
	callTime   = 5 * time.Second        // for a step that has to be finished even if its caller is gone
	holdFor    = 5 * time.Second        // the gate's hold, renewed at each tick; lapses when every process is dead
	leaseSpare = 5 * time.Second        // the lease outlasts the probe's timeout by this
	trialFor   = 4 * time.Second        // half open, the gate is told its tenth again after this
	adoptGrace = 10 * time.Second       // within this of our own resume, a pause may be a late one of ours

	// From half open on, the pace is a tenth; three good probes earn the first
	// doubling, and each 5 s the next: full pace about 12 s after the breaker
	// closes when the gate ramps smoothly, 15 s when it ramps in steps. A second
	// or so before it, and at most a probe interval to notice that the provider is
	// back, keep the whole within 20 s.
	halfOpenPace = 0.1
	resumePace   = 0.2
	doubling     = 5 * time.Second
	slowStart    = 15 * time.Second
)

// Queue pauses a pool's queue. All three are idempotent: to pause a paused queue
// is a success. Pause and Resume should return within about 5 s.
type Queue interface {
	Pause(ctx context.Context, pool string) error
	Resume(ctx context.Context, pool string) error
	Paused(ctx context.Context, pool string) (bool, error)
}

// Gate is the pool's pace.
type Gate interface {
	// Hold lets no call through for d; it is repeated while the pool is paused.
	Hold(ctx context.Context, d time.Duration, reason string) error
	// Resume ends the hold and goes on at this share of the pace (0 to 1),
	// doubling each 5 s up to 1. It may be called again with the share that the
	// same ramp has reached by then.
	Resume(ctx context.Context, pace float64) error
}

// Kind says what an outcome means to the breaker.
type Kind string

// The kinds of a verdict.
const (
	Ignore       Kind = ""             // says nothing about the provider: an ordinary 429, a rejected request, a canceled call
	Good         Kind = "good"         // the provider answered as it should
	Bad          Kind = "bad"          // overload, 5xx, timeout, no connection
	Spend        Kind = "spend"        // a spend cap was reached
	Unauthorized Kind = "unauthorized" // the key was refused, and not one request alone
)

// Verdict is what one call says about the provider.
type Verdict struct {
	Kind Kind
	// Reason names the outcome in a word or a few ("overloaded"); it is shown to
	// operators and callers. At most [MaxReason] characters are kept. No part of a prompt, a
	// provider's answer or a key belongs here.
	Reason string
	// Took is how long ago the call was sent; 0 means just now. Calls sent before
	// the breaker last moved do not trip it again.
	Took time.Duration
	// RetryAfter is the provider's Retry-After; 0 means none.
	RetryAfter time.Duration
	// ResumeAt is when a spend cap ends, if the provider said so.
	ResumeAt time.Time

	Model string // that was asked; "" where there is only one
	Job   string // for which; what one job meets again and again is its own
	// Alone says of a Bad that another model answers, Misfit that the address is
	// not the provider's or not as configured.
	Alone, Misfit bool
	Detail        string // for operators alone: hosts and targets
	Organization  string // whose key it was, as the answer said; "": it did not
}

// Rules say when the breaker trips and how it probes.
//
// With [Config.Ask] they say when failures are looked into, of a model or of all.
//
// Besides the ratio, MinCalls failures in a row trip it, or 8 in a row over at
// least half a second, or 5 in a row with no success for 5 s. A success ends a row
// only when its call was sent after the row's first one, since long calls go on
// succeeding for a while after a provider has begun to refuse new ones.
type Rules struct {
	Window       time.Duration // counted outcomes are at most this old; 0 means 10 s; at least 1 s
	MinCalls     int           // outcomes in the window before their ratio counts; 0 means 20
	FailureRatio float64       // share of failures that trips; 0 means 0.5; at most 1
	// ProbeInterval is the time between two probes while the provider is down; 0
	// means 5 s. Jitter takes up to half of it off. It doubles, up to 120 s, with
	// each relapse after the first; a Retry-After of the provider lengthens it.
	// A spend cap is probed at its stated end, else, as a refused key, each 5 to 15 min.
	ProbeInterval time.Duration
	// Recheck is the time between two probes of a spend cap, whenever it is to end, and of a
	// refused key, less up to half of it; a Retry-After lengthens it. 0 means as said above.
	Recheck time.Duration
}

// Config describes a [Breaker].
type Config struct {
	Redis redis.UniversalClient // required
	Pool  string                // required; no braces
	Queue Queue                 // nil: none, as of one account of a pool, which holds its gate alone
	// Gate is the pool's pace; nil means none, as in a process that only
	// passes on an operator's word: the workers then hold the gate within a second.
	Gate Gate
	// Probe makes one small call upstream, past the gate, and judges it. A
	// refusal of the probe's own request (4xx) is Good: the provider is up. An error
	// means that the call could not be judged; it is tried again later. Probe must
	// return soon after its context ends. Nil means that this process does not probe.
	Probe func(ctx context.Context) (Verdict, error)
	// Ask looks into a suspicion: is it this model, or all of them? known are
	// the models that have succeeded, the latest first. With Ask the breaker opens
	// for an outage only when every process that is asked finds no model that
	// answers; without, it trips by the Rules alone.
	Ask func(ctx context.Context, model string, known []string) (Verdict, error)
	// Cut is told when no model answered here while another process found the
	// provider well: it is this process that cannot reach it.
	Cut   func(why string)
	Rules Rules
	// Sure carries out an operator's word once, by calling do again for as long as
	// its outcome is not known. Nil: do is called once.
	Sure func(ctx context.Context, do func(ctx context.Context) error) error
	// ProbeTimeout ends a probe, which then counts as Bad; 0 means 10 s.
	ProbeTimeout time.Duration
	// Fingerprint tells one key from another: a digest of what makes a refused pool
	// worth another try when it changes, such as key and base URL. Only a digest of
	// it is stored. "" means that a restart never tries again by itself.
	Fingerprint string
	Prefix      string                // of the keys; "" means "sluice:pause:"
	Log         *slog.Logger          // nil means none
	Metrics     prometheus.Registerer // nil means none

	// Now replaces Redis's clock, and Random what is drawn of jitter (0 to 1), for a simulation,
	// which goes on by [Breaker.Step]. Nil means Redis's own, and chance.
	Now    func() time.Time
	Random func() float64

	now  func() time.Time // the scripts' clock in tests; nil means Redis TIME
	rnd  func() float64   // jitter in tests; nil means random
	tick time.Duration    // of the loop in tests; 0 means 1 s
}

// Breaker is a pool's breaker as one process sees it. Its methods may be called
// by many goroutines.
type Breaker struct {
	rdb           redis.UniversalClient
	pool          string
	key, auditKey string
	seenKey       string
	queue         Queue
	gate          Gate
	probe         func(context.Context) (Verdict, error)
	ask           func(ctx context.Context, model string, known []string) (Verdict, error)
	cut           func(why string)
	rule          Rules
	sure          func(ctx context.Context, do func(ctx context.Context) error) error
	probeTimeout  time.Duration
	fingerprint   string
	log           *slog.Logger
	count         *counters
	script        scripts
	now           func() time.Time
	rnd           func() float64
	stepped       bool // by a simulation, in whose time nothing is fresh for long
	tick          time.Duration
	holder        string

	goods struct {
		sync.Mutex
		n        int64
		youngest time.Time // when the latest of them was sent
		flushed  time.Time
		models   map[string]goods
		org      string // whose key the latest of them was made with, where it said so
	}
	waiting chan struct{} // successes wait to be counted
	moved   chan struct{} // the state moved: Run looks at once

	cache struct {
		sync.Mutex
		at   time.Time
		snap snapshot
		err  error
	}
	reading chan struct{} // one reads for the cache

	probing, away atomic.Bool
	asking        chan struct{} // one looks into a suspicion
	line          line

	applying chan struct{} // one brings queue and gate in line
	seen     snapshot      // what Redis is not to forget; guarded by applying
}

// goods are successes of one model that are not counted yet.
type goods struct {
	n        int64
	youngest time.Time
}

// New checks c and returns a [Breaker]. It makes no call to Redis.
func New(c Config) (*Breaker, error) {
	r := c.Rules
	r.Window = cmp.Or(r.Window, 10*time.Second)
	r.MinCalls = cmp.Or(r.MinCalls, 20)
	r.FailureRatio = cmp.Or(r.FailureRatio, 0.5)
	r.ProbeInterval = cmp.Or(r.ProbeInterval, 5*time.Second)
	var errs []error
	bad := func(wrong bool, text string) {
		if wrong {
			errs = append(errs, errors.New(text))
		}
	}
	bad(c.Redis == nil, "Redis is missing")
	bad(c.Pool == "" || strings.ContainsAny(c.Pool, "{}"), "Pool must be a name without braces")
	bad(r.Window < time.Second, "Rules.Window must be at least 1 s")
	bad(r.MinCalls < 1, "Rules.MinCalls must be at least 1")
	bad(!(r.FailureRatio > 0 && r.FailureRatio <= 1), "Rules.FailureRatio must be above 0 and at most 1")
	bad(r.ProbeInterval < time.Millisecond, "Rules.ProbeInterval must be at least 1 ms")
	bad(r.Recheck < 0, "Rules.Recheck must not be negative")
	bad(c.ProbeTimeout < 0, "ProbeTimeout must not be negative")
	if len(errs) > 0 {
		return nil, fmt.Errorf("breaker of pool %q: %w", c.Pool, errors.Join(errs...))
	}
	holder, err := randomID()
	if err != nil {
		return nil, err
	}
	count, err := newCounters(c.Metrics, c.Pool)
	if err != nil {
		return nil, fmt.Errorf("breaker of pool %q: %w", c.Pool, err)
	}
	key := cmp.Or(c.Prefix, "sluice:pause:") + "{" + c.Pool + "}"
	b := &Breaker{
		rdb: c.Redis, pool: c.Pool, key: key, auditKey: key + ":audit", seenKey: key + ":seen",
		queue: c.Queue, gate: c.Gate, probe: c.Probe, ask: c.Ask, cut: c.Cut, rule: r, sure: c.Sure,
		probeTimeout: cmp.Or(c.ProbeTimeout, 10*time.Second),
		log:          slog.New(slog.DiscardHandler),
		count:        count, script: newScripts(), now: c.now, rnd: c.rnd, stepped: c.Now != nil,
		tick: cmp.Or(c.tick, time.Second), holder: holder,
		waiting: make(chan struct{}, 1), moved: make(chan struct{}, 1),
		reading: make(chan struct{}, 1), applying: make(chan struct{}, 1), asking: make(chan struct{}, 1),
	}
	if b.sure == nil {
		b.sure = func(ctx context.Context, do func(ctx context.Context) error) error { return do(ctx) }
	}
	if c.Fingerprint != "" {
		sum := sha256.Sum256([]byte("sluice pause\x00" + c.Fingerprint))
		b.fingerprint = hex.EncodeToString(sum[:12])
	}
	if c.Log != nil {
		b.log = c.Log.With("pool", c.Pool)
	}
	if c.Now != nil {
		b.now, b.rnd = c.Now, c.Random
	}
	if b.rnd == nil {
		b.rnd = randv2.Float64
	}
	return b, nil
}

// Record takes the outcome of one call. Successes are counted together, at
// most 250 ms later; the rest at once. When this outcome trips the breaker, the gate is held and
// the queue paused before Record returns; when it raises a suspicion, what comes of
// that is known. An error means that the outcome may not have
// been counted; the call that it is about is not concerned.
func (b *Breaker) Record(ctx context.Context, v Verdict) error {
	switch v.Kind {
	case Ignore:
		return nil
	case Good:
		b.goods.Lock()
		sent := time.Now().Add(-max(0, v.Took))
		if b.goods.n == 0 || sent.After(b.goods.youngest) {
			b.goods.youngest = sent
		}
		b.goods.n++
		b.goods.org = cmp.Or(v.Organization, b.goods.org)
		if v.Model != "" {
			m := b.goods.models[v.Model]
			m.n++
			if sent.After(m.youngest) {
				m.youngest = sent
			}
			if b.goods.models == nil {
				b.goods.models = map[string]goods{}
			}
			b.goods.models[v.Model] = m
		}
		due := time.Since(b.goods.flushed) >= fresh
		b.goods.Unlock()
		if !due {
			signal(b.waiting)
			return nil
		}
	case Bad, Spend, Unauthorized:
	default:
		return fmt.Errorf("record outcome of pool %s: unknown kind %q", b.pool, v.Kind)
	}
	return b.send(ctx, v)
}

// send counts the successes that wait, and v.
func (b *Breaker) send(ctx context.Context, v Verdict) error { return b.tell(ctx, v, false) }

func (b *Breaker) tell(ctx context.Context, v Verdict, raise bool) error {
	b.goods.Lock()
	n, age := b.goods.n, time.Since(b.goods.youngest)
	models := make([][3]any, 0, len(b.goods.models))
	for name, m := range b.goods.models {
		models = append(models, [3]any{name, m.n, time.Since(m.youngest).Milliseconds()})
	}
	org := cmp.Or(v.Organization, b.goods.org)
	b.goods.n, b.goods.flushed, b.goods.models, b.goods.org = 0, time.Now(), nil, ""
	b.goods.Unlock()
	a := args{"goods": n, "models": models, "good_age": int64(0), "kind": "", "age": max(0, v.Took).Milliseconds(), "ask": flag(b.ask != nil), "raise": flag(raise), "org": org}
	if n > 0 {
		a["good_age"] = age.Milliseconds()
	}
	if v.Kind != Good {
		a["kind"] = string(v.Kind)
	}
	if n == 0 && a["kind"] == "" {
		return nil
	}
	tripped, s, err := b.run(ctx, b.script.record, b.rules(verdictArgs(a, v)))
	if err != nil {
		b.count.errors.WithLabelValues(b.pool, "record").Inc()
		return fmt.Errorf("record outcome of pool %s: %w", b.pool, err)
	}
	b.remember(s) // who asks for the state next decides by what this outcome found
	switch tripped {
	case 1:
		b.opened(s)
		return b.enforceNow(ctx)
	case 2:
		b.lookInto(ctx)
	}
	return nil
}

// Suspect records a failure that is enough to look into at once: nothing answers here.
func (b *Breaker) Suspect(ctx context.Context, v Verdict) error { return b.tell(ctx, v, true) }

func verdictArgs(a args, v Verdict) args {
	a["reason"] = clip(cmp.Or(v.Reason, string(v.Kind)))
	a["model"], a["job"], a["misfit"], a["detail"] = v.Model, v.Job, flag(v.Misfit), clip(v.Detail)
	a["retry_after"] = max(0, v.RetryAfter).Milliseconds()
	a["resume_at"] = int64(0)
	if !v.ResumeAt.IsZero() {
		a["resume_at"] = max(0, v.ResumeAt.UnixMilli())
	}
	return a
}

// opened counts and logs a breaker that this process opened.
func (b *Breaker) opened(s snapshot) {
	st := s.state()
	cause := s.h["cause"]
	b.count.opened.WithLabelValues(b.pool, cause).Inc()
	level := slog.LevelWarn
	if Cause(cause) != Overload {
		level = slog.LevelError // somebody has to act
	}
	b.log.Log(context.Background(), level, "breaker opened, the queue is paused", "cause", cause, "reason", s.h["why"], "detail", s.h["detail"],
		"expected_resume_at", st.ExpectedResumeAt, "next_probe_at", st.NextProbeAt)
}

// State returns the pool's state, at most 250 ms old. With an error it is the
// last one known.
func (b *Breaker) State(ctx context.Context) (State, error) {
	s, err := b.latest(ctx)
	return s.state(), err
}

// Success returns the share of the latest calls that went well, from 0 to 1, and how many those
// are: of the last window in which there were any, none from before the breaker last moved.
// It is as old, and has the errors, of [Breaker.State].
func (b *Breaker) Success(ctx context.Context) (share float64, calls int64, err error) {
	s, err := b.latest(ctx)
	share, calls = s.success()
	return share, calls, err
}

// latest is the state, at most 250 ms old; with an error the last one known.
func (b *Breaker) latest(ctx context.Context) (snapshot, error) {
	if s, err, ok := b.cached(); ok {
		return s, err
	}
	select {
	case b.reading <- struct{}{}:
		defer func() { <-b.reading }()
	case <-ctx.Done():
		s, _, _ := b.cached()
		return s, ctx.Err()
	}
	if s, err, ok := b.cached(); ok {
		return s, err
	}
	s, err := b.look(ctx)
	if err != nil {
		s, _, _ = b.cached()
	}
	return s, err
}

func (b *Breaker) cached() (snapshot, error, bool) {
	b.cache.Lock()
	defer b.cache.Unlock()
	return b.cache.snap, b.cache.err, !b.cache.at.IsZero() && !b.stepped && time.Since(b.cache.at) < fresh
}

func (b *Breaker) remember(s snapshot) {
	b.cache.Lock()
	defer b.cache.Unlock()
	if s.now >= b.cache.snap.now {
		b.cache.at, b.cache.snap, b.cache.err = time.Now(), s, nil
	}
}

// look reads the state past the cache, and fills it. While Redis is away,
// the cache holds the error, so that callers do not queue for the same answer.
func (b *Breaker) look(ctx context.Context) (snapshot, error) {
	_, s, err := b.run(ctx, b.script.look, args{})
	if err != nil {
		err = fmt.Errorf("read state of pool %s: %w", b.pool, err)
	}
	b.cache.Lock()
	defer b.cache.Unlock()
	switch {
	case err == nil:
		b.cache.at, b.cache.snap, b.cache.err = time.Now(), s, nil
	case ctx.Err() == nil:
		b.cache.at, b.cache.err = time.Now(), err
	}
	return s, err
}

// Pause holds the pool for an operator until [Breaker.Resume]. To pause again replaces
// who, why and until when. On an error it may hold already; it is safe to repeat.
func (b *Breaker) Pause(ctx context.Context, by, reason string) error {
	return b.operate(ctx, "pause", by, reason, time.Time{})
}

// PauseUntil is Pause until a time at which any process that runs [Breaker.Run] ends it,
// within a second; zero is never.
func (b *Breaker) PauseUntil(ctx context.Context, by, reason string, until time.Time) error {
	return b.operate(ctx, "pause", by, reason, until)
}

// Resume ends an operator's pause, and clears a refused key, a spend cap or an
// address that does not fit, which the operator has seen to: calls flow again, slowly at first, and only what is
// sent from now on can pause the pool for it anew. A breaker that is open for an
// overload stays open, and probes the provider at once. To resume a pool that is
// not paused is a success.
func (b *Breaker) Resume(ctx context.Context, by string) error {
	return b.operate(ctx, "resume", by, "", time.Time{})
}

// Memory holds the pool while Redis is nearly full, or lets go of it. It works in a full
// Redis too, and costs nothing where that is known already. Operator and breaker are not
// concerned. On an error it may hold already; it is safe to repeat.
func (b *Breaker) Memory(ctx context.Context, full bool) error {
	b.cache.Lock()
	known := !b.cache.at.IsZero() && b.cache.snap.crowded() == full
	b.cache.Unlock()
	if known {
		return nil
	}
	changed, s, err := b.run(ctx, b.script.memory, args{"on": flag(full)})
	if err != nil {
		return fmt.Errorf("hold pool %s for memory: %w", b.pool, err)
	}
	b.remember(s)
	switch {
	case changed == 0:
		return nil
	case full:
		b.log.Warn("paused: redis is nearly full")
	default:
		b.log.Info("redis has room again")
	}
	return b.enforceNow(ctx)
}

// Try clears a refused key, a spend cap or an address as [Breaker.Resume] does, and leaves
// everything else as it is, an operator's pause above all.
func (b *Breaker) Try(ctx context.Context, by string) error {
	return b.operate(ctx, "try", by, "", time.Time{})
}

func (b *Breaker) operate(ctx context.Context, verb, by, reason string, until time.Time) error {
	ends := int64(0)
	if !until.IsZero() {
		ends = until.UnixMilli()
	}
	// A state that was lost is put back first, or a resume would find nothing to
	// resume, and the pause would come back after it.
	if _, err := b.enforce(ctx); err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s pool %s: %w", verb, b.pool, err)
	}
	op, err := randomID()
	if err != nil {
		return err
	}
	done := int64(0)
	err = b.sure(ctx, func(ctx context.Context) (err error) {
		if done, _, err = b.run(ctx, b.script.operate, args{"op": op, "verb": verb, "by": clip(by), "reason": clip(reason), "until": ends}); err != nil {
			return err
		}
		return b.enforceNow(ctx)
	})
	if err != nil {
		return fmt.Errorf("%s pool %s: %w", verb, b.pool, err)
	}
	if done == 1 {
		said := []any{"by", clip(by), "reason", clip(reason)}
		if ends > 0 {
			said = append(said, "until", until)
		}
		b.log.Info("told to "+verb, said...)
	}
	return nil
}

// Entry is one line of a pool's audit list.
type Entry struct {
	At     time.Time
	Action string // "pause" or "resume"
	By     string
	Reason string
	Until  time.Time // of a pause that ends by itself; zero: it does not
}

// Audit returns the last n things that operators did, newest first. The list
// keeps 1,000.
func (b *Breaker) Audit(ctx context.Context, n int) ([]Entry, error) {
	if n <= 0 {
		return nil, nil
	}
	lines, err := b.rdb.LRange(ctx, b.auditKey, 0, int64(n)-1).Result()
	if err != nil {
		return nil, fmt.Errorf("read audit of pool %s: %w", b.pool, err)
	}
	entries := make([]Entry, 0, len(lines))
	for _, line := range lines {
		var e struct{ At, Action, By, Reason, Ends string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("read audit of pool %s: %w", b.pool, err)
		}
		ms, err := strconv.ParseInt(e.At, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read audit of pool %s: %w", b.pool, err)
		}
		entry := Entry{At: time.UnixMilli(ms).UTC(), Action: e.Action, By: e.By, Reason: e.Reason}
		if ends, err := strconv.ParseInt(e.Ends, 10, 64); err == nil {
			entry.Until = time.UnixMilli(ends).UTC()
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// signal wakes whoever waits on c, now or next.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// clip cuts s to what is kept of a reason or a name.
func clip(s string) string {
	n := 0
	for i := range s {
		if n++; n > MaxReason {
			s = s[:i]
			break
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func randomID() (string, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}
