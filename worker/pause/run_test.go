package pause

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sluicehq/sluice/tasks/redistest"
)

var eventually = redistest.Until

// start runs b until the test ends or stop is called.
func start(t *testing.T, b *Breaker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// quick makes a config run by Redis's own clock, and quickly.
func quick(c Config) Config {
	c.now, c.rnd = nil, nil
	c.tick = 10 * time.Millisecond
	c.Rules.ProbeInterval = 40 * time.Millisecond
	return c
}

func TestOneProberAmongFour(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var inFlight, most, made atomic.Int64
	var healthy atomic.Bool
	c := quick(w.config(w.rdb))
	c.Gate = nil // the world's runs by another clock
	c.Probe = func(ctx context.Context) (Verdict, error) {
		n := inFlight.Add(1)
		defer inFlight.Add(-1)
		for {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		made.Add(1)
		select { // long enough for the others to see the same probe due
		case <-time.After(30 * time.Millisecond):
		case <-ctx.Done():
			return Verdict{}, ctx.Err()
		}
		if healthy.Load() {
			return good, nil
		}
		return bad, nil
	}
	var all []*Breaker
	for range 4 {
		b := w.build(c)
		start(t, b)
		all = append(all, b)
	}
	for range 5 {
		w.record(all[0], bad)
	}
	eventually(t, "ten probes", func() bool { return made.Load() >= 10 })
	if !w.queuePaused() {
		t.Error("queue is not paused while the provider is down")
	}
	healthy.Store(true)
	for i, b := range all {
		eventually(t, fmt.Sprintf("breaker %d sees the slow start", i), func() bool {
			s, err := b.State(t.Context())
			return err == nil && s.Name == SlowStart && !s.Paused
		})
	}
	eventually(t, "the queue goes on", func() bool { return !w.queuePaused() })
	if got := most.Load(); got != 1 {
		t.Errorf("%d probes at once, want 1", got)
	}
}

func TestCrashedProberIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.breaker(), w.breaker()
	w.trip(a)
	w.pass(5 * time.Second)
	s, err := a.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fence, _ := a.takeProbe(t.Context(), s) // and a is gone
	if fence == 0 {
		t.Fatal("no lease")
	}
	w.answers(good)
	w.pass(a.probeTimeout + leaseSpare - time.Second)
	w.step(b)
	if w.probes != 0 {
		t.Error("probed while another holds the lease")
	}
	w.pass(time.Second)
	w.step(b)
	if s := w.state(b); w.probes != 1 || s.Name != HalfOpen {
		t.Errorf("after the lease: %d probes, %s", w.probes, s.Name)
	}
	// The first one was only slow: its verdict no longer counts.
	w.answers(bad)
	a.probeOnce(t.Context(), fence)
	if s := w.state(b); s.Name != HalfOpen {
		t.Errorf("an overtaken prober moved the breaker: %+v", s)
	}
}

func TestProbeIsAbandonedAtShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quick(w.config(w.rdb))
	c.Gate = nil
	began := make(chan struct{}, 1)
	c.Probe = func(ctx context.Context) (Verdict, error) {
		signal(began)
		<-ctx.Done()
		return Verdict{}, ctx.Err()
	}
	b := w.build(c)
	stop := start(t, b)
	for range 5 {
		w.record(b, bad)
	}
	<-began
	stop()
	s, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.int("lease_until") != 0 || s.int("tries") != 0 {
		t.Errorf("lease until %d, %d tries; want the lease given back and nothing counted", s.int("lease_until"), s.int("tries"))
	}
}

func TestHangingProbeCountsAsBad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := quick(w.config(w.rdb))
	c.Gate = nil
	c.ProbeTimeout = 20 * time.Millisecond
	c.Probe = func(ctx context.Context) (Verdict, error) {
		<-ctx.Done()
		return Verdict{}, ctx.Err()
	}
	b := w.build(c)
	start(t, b)
	for range 5 {
		w.record(b, bad)
	}
	eventually(t, "two failed probes", func() bool { return w.state(b).Tries >= 2 })
}

func TestSuccessesAreCountedTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := new(commands)
	rdb := redis.NewClient(w.rdb.(*redis.Client).Options())
	defer rdb.Close()
	rdb.AddHook(n)
	c := quick(w.config(w.rdb))
	c.Redis, c.Gate = rdb, nil
	b := w.build(c)
	began := time.Now()
	for range 1000 {
		w.record(b, good)
	}
	if got := n.n.Load(); got > 1+int64(time.Since(began)/fresh) {
		t.Errorf("%d calls for a thousand successes", got)
	}
	stop := start(t, b)
	eventually(t, "all are counted", func() bool {
		s := w.goods(b)
		return s == 1000
	})
	b.goods.Lock()
	b.goods.flushed = time.Now()
	b.goods.Unlock()
	w.record(b, many(7, good)...)
	stop() // counts what is left
	if got := w.goods(b); got != 1007 {
		t.Errorf("%d successes counted after the end, want 1007", got)
	}
}

// goods sums the ring.
func (w *world) goods(b *Breaker) int {
	s, err := b.look(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0
	for i := range 10 {
		var tick, ok, bad int
		if _, err := fmt.Sscanf(s.h[fmt.Sprintf("b%d", i)], "%d:%d:%d", &tick, &ok, &bad); err == nil {
			sum += ok
		}
	}
	return sum
}

// commands counts calls of scripts.
type commands struct {
	mortal
	n atomic.Int64
}

func (c *commands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			c.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

func TestStateIsCached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := new(commands)
	rdb := redis.NewClient(w.rdb.(*redis.Client).Options())
	defer rdb.Close()
	rdb.AddHook(n)
	c := w.config(rdb)
	b := w.build(c)
	began := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if _, err := b.State(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, most := n.n.Load(), 1+int64(time.Since(began)/fresh); got > most {
		t.Errorf("%d calls for 4,000 reads, want at most %d", got, most)
	}
	other := w.breaker()
	if err := other.Pause(t.Context(), "ada", "maintenance"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another process's pause shows", func() bool {
		s, err := b.State(t.Context())
		return err == nil && s.PausedBy == ByOperator && s.By == "ada" && s.Reason == "maintenance"
	})
}

func TestRedisAway(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Options{AOF: "always"})
	// The client gives up at once, so that the test sees Redis come and go quickly.
	opt := s.Client().Options()
	opt.MaxRetries, opt.DialerRetries, opt.PoolSize = -1, 1, 4
	rdb := redis.NewClient(opt)
	defer rdb.Close()
	w := &world{t: t, rdb: rdb, at: time.UnixMilli(1_800_000_000_000), provider: bad}
	c := quick(w.config(w.rdb))
	c.Gate = nil
	b := w.build(c)
	start(t, b)
	ctx := t.Context()
	if err := b.Pause(ctx, "ada", "maintenance"); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if err := b.Record(ctx, bad); err == nil {
		t.Error("a failure that could not be counted: no error")
	}
	if err := b.Resume(ctx, "ada"); err == nil {
		t.Error("resume without Redis: no error")
	}
	eventually(t, "State says so, with the last state known", func() bool {
		st, err := b.State(ctx)
		return err != nil && st.PausedBy == ByOperator
	})
	s.Start()
	eventually(t, "State is back", func() bool {
		st, err := b.State(ctx)
		return err == nil && st.PausedBy == ByOperator
	})
	if err := b.Resume(ctx, "ada"); err != nil {
		t.Fatal(err)
	}
	if w.queuePaused() {
		t.Error("queue is still paused")
	}
}

func TestLossOfAllState(t *testing.T) {
	t.Parallel()
	t.Run("an operator's pause is put back", func(t *testing.T) {
		w := newWorld(t)
		a, b := w.breaker(), w.breaker()
		if err := a.Pause(t.Context(), "ada", "maintenance"); err != nil {
			t.Fatal(err)
		}
		w.step(b)
		w.rdb.FlushAll(t.Context())
		w.step(b)
		w.step(a)
		if s := w.state(a); s.PausedBy != ByOperator || s.By != "ada" || s.Reason != "maintenance" || !w.queuePaused() {
			t.Errorf("got %+v, queue paused %t", s, w.queuePaused())
		}
		if err := b.Resume(t.Context(), "ada"); err != nil {
			t.Fatal(err)
		}
		w.step(a)
		if s := w.state(a); s.Paused || w.queuePaused() {
			t.Errorf("a remembered pause came back after its resume: %+v", s)
		}
	})
	t.Run("a resume just after it holds", func(t *testing.T) {
		w := newWorld(t)
		a, b := w.breaker(), w.breaker()
		if err := a.Pause(t.Context(), "ada", "maintenance"); err != nil {
			t.Fatal(err)
		}
		w.step(b)
		w.rdb.FlushAll(t.Context())
		if err := b.Resume(t.Context(), "ada"); err != nil {
			t.Fatal(err)
		}
		w.step(a)
		w.step(b)
		if s := w.state(a); s.Paused || w.queuePaused() {
			t.Errorf("got %+v, queue paused %t", s, w.queuePaused())
		}
	})
	t.Run("calls that fail before the loss is noticed do not hide it", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		if err := b.Pause(t.Context(), "ada", "maintenance"); err != nil {
			t.Fatal(err)
		}
		w.rdb.FlushAll(t.Context())
		other := w.breaker()
		w.record(other, Verdict{Kind: Spend})
		w.step(b)
		if s := w.state(b); s.By != "ada" || s.Cause != SpendCap {
			t.Errorf("got %+v, want both", s)
		}
	})
	t.Run("the breaker starts anew", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		w.trip(b)
		w.rdb.FlushAll(t.Context())
		w.step(b)
		w.step(b)
		if s := w.state(b); s.Name != Closed || s.Paused || w.queuePaused() || w.flow() != 1 {
			t.Errorf("got %+v, queue paused %t, gate at %v", s, w.queuePaused(), w.flow())
		}
		w.trip(b)
	})
}

func TestLossOfOurStateAlone(t *testing.T) {
	t.Parallel()
	lose := func(w *world, b *Breaker) {
		if err := w.rdb.Del(t.Context(), b.key, b.auditKey).Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a process that remembers undoes the breaker's pause", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		w.trip(b)
		lose(w, b)
		w.step(b)
		if s := w.state(b); s.Paused || w.queuePaused() {
			t.Errorf("got %+v, queue paused %t", s, w.queuePaused())
		}
	})
	t.Run("with nobody to remember it counts as an operator's", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		w.trip(b)
		lose(w, b)
		b = w.breaker()
		w.step(b)
		if s := w.state(b); s.PausedBy != ByOperator || s.By != "unknown" || !w.queuePaused() {
			t.Errorf("got %+v, queue paused %t", s, w.queuePaused())
		}
		if err := b.Resume(t.Context(), "ada"); err != nil || w.queuePaused() {
			t.Errorf("resume: %v, queue paused %t", err, w.queuePaused())
		}
	})
}

func TestPauseWithAnotherTool(t *testing.T) {
	t.Parallel()
	t.Run("while closed", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		w.step(b)
		if err := (queue{w, w.rdb}).Pause(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		w.step(b)
		if s := w.state(b); s.PausedBy != ByOperator || w.flow() != 0 {
			t.Errorf("got %+v, gate at %v", s, w.flow())
		}
	})
	t.Run("just before the breaker opens, it outlives the breaker", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		w.step(b)
		if err := (queue{w, w.rdb}).Pause(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		w.trip(b)
		w.answers(good)
		for range 40 {
			w.step(b)
			w.pass(time.Second)
		}
		if s := w.state(b); s.PausedBy != ByOperator || !w.queuePaused() || w.probes != 0 {
			t.Errorf("got %+v, queue paused %t, %d probes; want the pause kept and nothing sent", s, w.queuePaused(), w.probes)
		}
	})
	t.Run("a resume with another tool does not end it", func(t *testing.T) {
		w := newWorld(t)
		b := w.breaker()
		if err := b.Pause(t.Context(), "ada", "maintenance"); err != nil {
			t.Fatal(err)
		}
		if err := (queue{w, w.rdb}).Resume(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		w.step(b)
		if !w.queuePaused() {
			t.Error("queue goes on under an operator's pause")
		}
	})
}

// slow is a queue whose next Pause or Resume takes effect late.
type slow struct {
	queue
	pause, resume func()
}

func (q slow) Pause(ctx context.Context, pool string) error {
	q.pause()
	return q.queue.Pause(ctx, pool)
}

func (q slow) Resume(ctx context.Context, pool string) error {
	q.resume()
	return q.queue.Resume(ctx, pool)
}

func TestLatePauseIsUndoneByItsMaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.breaker()
	c := w.config(w.rdb)
	once := sync.OnceFunc(func() { // the pause is ended while it is on its way
		w.step(other)
		if err := other.Resume(t.Context(), "bob"); err != nil {
			t.Error(err)
		}
	})
	c.Queue = slow{queue{w, w.rdb}, once, func() {}}
	if err := w.build(c).Pause(t.Context(), "ada", "maintenance"); err != nil {
		t.Fatal(err)
	}
	if s := w.state(other); s.Paused || w.queuePaused() {
		t.Errorf("got %+v, queue paused %t; want the resume, which came last, to hold", s, w.queuePaused())
	}
}

func TestLateResumeDoesNotEndAnOperatorsPause(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := w.breaker()
	if err := other.Pause(t.Context(), "ada", "maintenance"); err != nil {
		t.Fatal(err)
	}
	c := w.config(w.rdb)
	once := sync.OnceFunc(func() {
		if err := other.Pause(t.Context(), "bob", "no, stop"); err != nil {
			t.Error(err)
		}
	})
	c.Queue = slow{queue{w, w.rdb}, func() {}, once}
	if err := w.build(c).Resume(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	if s := w.state(other); s.By != "bob" || !w.queuePaused() {
		t.Errorf("got %+v, queue paused %t; want the pause, which came last, to hold", s, w.queuePaused())
	}
}

func TestOperatorDuringSlowStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.breaker()
	w.trip(b)
	w.answers(good)
	w.until(b, SlowStart, 10*time.Second)
	if err := b.Pause(t.Context(), "ada", ""); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	w.step(b)
	if err := b.Resume(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	if s := w.state(b); s.Name != SlowStart || w.flow() != resumePace {
		t.Errorf("got %s, gate at %v; want the slow start that is still owed", s.Name, w.flow())
	}
}

func TestHalfOpenLeavesAHoldOfTheProviderAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.config(w.rdb)
	c.Probe = nil
	a, b := w.breaker(), w.build(c)
	w.trip(a)
	w.answers(good)
	w.until(a, HalfOpen, 10*time.Second)
	if err := w.Hold(t.Context(), 3*time.Second, "retry-after"); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Second)
	w.step(b)
	if w.flow() != 0 {
		t.Error("a hold of three seconds was over after two")
	}
	w.pass(2 * time.Second)
	w.step(b)
	if got := w.flow(); got != halfOpenPace {
		t.Errorf("gate at %v, want a tenth", got)
	}
	w.pass(trialFor)
	w.step(b)
	if got := w.flow(); got != halfOpenPace {
		t.Errorf("half open for long: gate at %v, want a tenth still", got)
	}
}

func TestQueueAndGateAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	away := errors.New("away")
	c := w.config(w.rdb)
	f := &faulty{queue: queue{w, w.rdb}, err: away}
	c.Queue = f
	b := w.build(c)
	if err := b.Pause(t.Context(), "ada", ""); !errors.Is(err, away) {
		t.Errorf("pause: %v, want %v", err, away)
	}
	if w.flow() != 0 {
		t.Error("the gate is not held while the queue is away")
	}
	f.err = nil
	w.step(b)
	if !w.queuePaused() {
		t.Error("queue is not paused though it is back")
	}
}

type faulty struct {
	queue
	err error
}

func (f *faulty) Pause(ctx context.Context, pool string) error {
	if f.err != nil {
		return f.err
	}
	return f.queue.Pause(ctx, pool)
}

// The embedded default without a redis-server interprets the scripts itself.
func TestOnTheInProcessRedis(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{
		Addr: m.Addr(), MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer rdb.Close()
	w := &world{t: t, rdb: rdb, at: time.UnixMilli(1_800_000_000_000), rnd: 0.5, pace: 1, provider: bad}
	b := w.breaker()
	w.record(b, many(20, good)...)
	if err := b.send(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	w.pass(5 * time.Second)
	w.trip(b)
	for range 20 {
		w.step(b)
		w.pass(time.Second)
	}
	w.answers(good)
	w.until(b, SlowStart, 10*time.Second)
	if err := b.Pause(t.Context(), "ada", "maintenance"); err != nil {
		t.Fatal(err)
	}
	if s := w.state(b); s.By != "ada" || !w.queuePaused() {
		t.Errorf("got %+v", s)
	}
	if got, err := b.Audit(t.Context(), 5); err != nil || len(got) != 1 || got[0].By != "ada" {
		t.Errorf("audit: %v, %v", got, err)
	}
}
