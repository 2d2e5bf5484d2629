package limit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	redistest.Until(t, what, ok)
}

// taking starts a Take and returns where its end is told.
func taking(ctx context.Context, g *Gate, n Need) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := g.Take(ctx, n)
		done <- err
	}()
	return done
}

func waitFor(t testing.TB, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("Take did not return within a minute")
		return nil
	}
}

func (g *Gate) queued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queue.Len()
}

func settle(t testing.TB, g *Gate, grant Grant, a Actual) {
	t.Helper()
	if err := g.Settle(t.Context(), grant, a); err != nil {
		t.Error(err)
	}
}

func TestProcessesShareThePace(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	l := Limits{RequestsPerMinute: 3000, RequestBurst: 10}
	const processes, callers, calls = 4, 4, 5
	var sent []time.Time
	var mu sync.Mutex
	var gates []*Gate
	var working atomic.Int64 // callers that are not done
	working.Store(processes * callers)
	for range processes {
		g := f.gate(t, rdb, l)
		start(t, g)
		gates = append(gates, g)
		for range callers {
			go func() {
				defer working.Add(-1)
				for range calls {
					grant, err := g.Take(t.Context(), Need{ID: "a", Class: "c"})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					sent = append(sent, f.now())
					mu.Unlock()
					settle(t, g, grant, Actual{Known: true})
				}
			}()
		}
	}
	// The time goes on when every caller waits, and each of their pumps for a slot.
	for working.Load() > 0 {
		eventually(t, "everybody waits", func() bool {
			waiting, pumps := 0, 0
			for _, g := range gates {
				n := g.queued()
				waiting += n
				pumps += min(n, 1)
			}
			done := int(working.Load())
			return done == 0 || waiting == done && f.sleeping() == processes+pumps // each renews its lease
		})
		f.next()
	}
	// 80 calls at 50 a second; a strict bucket of 10 has to take them all.
	level, at := 10.0, sent[0]
	for i, s := range sent {
		level = min(10, level+50*s.Sub(at).Seconds()) - 1
		at = s
		if level < -0.01 {
			t.Errorf("call %d finds the provider's bucket empty by %v", i, -level)
			break
		}
	}
	if took := sent[len(sent)-1].Sub(sent[0]); len(sent) != processes*callers*calls || took > 1700*time.Millisecond {
		t.Errorf("%d calls at 50 a second took %v, want 80 in about 1.6 s", len(sent), took)
	}
}

func TestCallsPassInTheOrderOfAsking(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	g := f.gate(t, redistest.New(t), Limits{RequestsPerMinute: 6000, RequestBurst: 1}) // one each 10 ms
	passed := make(chan int)
	for i := range 10 { // queued one after the other, before anything passes
		go func() {
			if _, err := g.Take(t.Context(), Need{ID: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
			passed <- i
		}()
		eventually(t, "queued", func() bool { return g.queued() == i+1 })
	}
	start(t, g)
	for want := range 10 {
		if want > 0 {
			f.pass(t, 10*time.Millisecond)
		}
		if got := <-passed; got != want {
			t.Errorf("call %d passed, want %d", got, want)
		}
	}
}

func TestCallerWhoLeavesGivesTheSlotBack(t *testing.T) {
	t.Parallel()
	g := newGate(t, redistest.New(t), Limits{RequestsPerMinute: 6, RequestBurst: 1}) // one each 10 s
	start(t, g)
	take(t, g, Need{ID: "first"})
	ctx, cancel := context.WithCancel(t.Context())
	done := taking(ctx, g, Need{ID: "second"})
	eventually(t, "the slot ahead is booked", func() bool { return state(t, g).InFlight == 2 })
	cancel()
	if err := waitFor(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	eventually(t, "the slot is back", func() bool { return state(t, g).InFlight == 1 })
	if level := state(t, g).Requests.Level; level < 0 {
		t.Errorf("level %v, want the request back", level)
	}
	if n := g.queued(); n != 0 {
		t.Errorf("%d queued, want none", n)
	}
}

func TestSlotIsGivenBackWhenRunEnds(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{RequestsPerMinute: 6, RequestBurst: 1}
	g := newGate(t, rdb, l)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	take(t, g, Need{ID: "first"})
	done := taking(t.Context(), g, Need{ID: "second"})
	eventually(t, "the slot ahead is booked", func() bool { return state(t, g).InFlight == 2 })
	cancel()
	if err := waitFor(t, ended); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := waitFor(t, done); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v, want ErrStopped", err)
	}
	if s := state(t, g); s.InFlight != 1 {
		t.Errorf("%d in flight after Run ended, want 1", s.InFlight)
	}
	if _, err := g.Take(t.Context(), Need{ID: "third"}); !errors.Is(err, ErrStopped) {
		t.Errorf("Take after Run: %v, want ErrStopped", err)
	}
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	g := newGate(t, redistest.New(t), Limits{})
	start(t, g)
	take(t, g, Need{ID: "a"})
	if err := g.Run(t.Context()); err == nil {
		t.Error("second Run: no error")
	}
}

func TestHoldReachesAnotherProcess(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	l := Limits{RequestsPerMinute: 150, RequestBurst: 1} // one each 400 ms
	a, b := f.gate(t, rdb, l), f.gate(t, rdb, l)
	start(t, a)
	take(t, a, Need{ID: "first"})
	eventually(t, "subscribed", a.subscribed.Load)
	done := taking(t.Context(), a, Need{ID: "second"})
	f.sleeps(t, 400*time.Millisecond) // the slot ahead is booked
	if err := b.Hold(t.Context(), time.Hour, "refused"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slot is back", func() bool { return state(t, b).InFlight == 1 })
	select {
	case err := <-done:
		t.Fatalf("passed a held gate: %v", err)
	default:
	}
	f.sleeps(t, time.Second) // it asks again each second of a hold
	if err := b.Resume(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// Its answer from before may come after the word that it may go on: then it asks
	// again within a second.
	eventually(t, "the second passes after Resume", func() bool {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("after Resume: %v", err)
			}
			return true
		default:
			f.advance(10 * time.Millisecond)
			return false
		}
	})
}

// A slot far ahead does not rely on having heard of the hold.
func TestHoldIsCheckedAgainAtSend(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	l := Limits{RequestsPerMinute: 40, RequestBurst: 1} // one each 1.5 s
	g := f.gate(t, rdb, l)
	start(t, g)
	take(t, g, Need{ID: "first"})
	done := taking(t.Context(), g, Need{ID: "second"})
	f.sleeps(t, 1500*time.Millisecond) // the slot ahead is booked
	// A hold that no message tells of: on another channel.
	deaf := f.gate(t, rdb, l)
	deaf.common.Channel = "elsewhere"
	if err := deaf.Hold(t.Context(), time.Hour, "refused"); err != nil {
		t.Fatal(err)
	}
	if s := state(t, deaf); s.InFlight != 2 {
		t.Fatalf("%d in flight, want the slot ahead still booked", s.InFlight)
	}
	f.pass(t, 1500*time.Millisecond)
	eventually(t, "the slot is back", func() bool { return state(t, deaf).InFlight == 1 })
	select {
	case err := <-done:
		t.Fatalf("passed a held gate: %v", err)
	default:
	}
	f.sleeps(t, time.Second) // it asks again each second of a hold
	eventually(t, "it hears", g.subscribed.Load)
	if err := g.Resume(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(t, done); err != nil {
		t.Error(err)
	}
}

func TestConcurrencyAcrossProcesses(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	l := Limits{Concurrency: 3}
	var under, most atomic.Int64
	var wg sync.WaitGroup
	reg := prometheus.NewRegistry()
	const jobs = 300
	for range 3 {
		g := newGate(t, rdb, l, func(c *Config) { c.Metrics = reg })
		start(t, g)
		eventually(t, "subscribed", g.subscribed.Load)
		for range 10 {
			wg.Go(func() {
				for range jobs / 30 {
					grant, err := g.Take(t.Context(), Need{ID: "a", Class: "c"})
					if err != nil {
						t.Error(err)
						return
					}
					n := under.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					if err := rdb.Ping(t.Context()).Err(); err != nil { // the call, for a moment
						t.Error(err)
					}
					under.Add(-1)
					settle(t, g, grant, Actual{Known: true})
				}
			})
		}
	}
	wg.Wait()
	if got := most.Load(); got > 3 {
		t.Errorf("%d calls at once, want at most 3", got)
	}
	var asked float64
	for _, result := range []string{"granted", "booked", "full", "hold", "far", "error"} {
		asked += counter(t, reg, "sluice_gate_acquires_total", "result", result)
	}
	if asked > 1.1*jobs {
		t.Errorf("%v questions for %d jobs, want at most 1.1 a job", asked, jobs)
	}
}

// counter reads a counter of pool p.
func counter(t testing.TB, reg *prometheus.Registry, name, label, value string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

func TestCallerWhoLeavesTheLine(t *testing.T) {
	t.Parallel()
	g := newGate(t, redistest.New(t), Limits{Concurrency: 1})
	start(t, g)
	first := take(t, g, Need{ID: "first"})
	ctx, cancel := context.WithCancel(t.Context())
	done := taking(ctx, g, Need{ID: "second"})
	eventually(t, "in line", func() bool { return waitingProcesses(t, g) == 1 })
	third := taking(t.Context(), g, Need{ID: "third"})
	eventually(t, "queued", func() bool { return g.queued() == 2 })
	cancel()
	if err := waitFor(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	settle(t, g, first, Actual{})
	if err := waitFor(t, third); err != nil {
		t.Error(err)
	}
	eventually(t, "nobody in line, one under way", func() bool {
		return waitingProcesses(t, g) == 0 && state(t, g).InFlight == 1
	})
}

func TestHoldEndsForThoseInLineToo(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	g := f.gate(t, redistest.New(t), Limits{Concurrency: 1})
	start(t, g)
	first := take(t, g, Need{ID: "first"})
	eventually(t, "subscribed", g.subscribed.Load)
	done := taking(t.Context(), g, Need{ID: "second"})
	f.sleeps(t, 30*time.Second) // in line
	if n := waitingProcesses(t, g); n != 1 {
		t.Fatalf("%d in line, want 1", n)
	}
	if err := g.Hold(t.Context(), 300*time.Millisecond, "refused"); err != nil {
		t.Fatal(err)
	}
	settle(t, g, first, Actual{}) // during the hold: nobody is handed anything
	f.sleeps(t, 300*time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("passed a held gate: %v", err)
	default:
	}
	f.pass(t, 300*time.Millisecond)
	if err := waitFor(t, done); err != nil {
		t.Error(err)
	}
}

// A worker that is killed leaves its concurrency behind only as long as its lease.
func TestKilledProcessFreesItsConcurrency(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	l := Limits{Concurrency: 1}
	killed, g := f.gate(t, rdb, l), f.gate(t, rdb, l)
	if _, err := killed.ask(t.Context(), []*waiter{{key: "a/killed/1"}}); err != nil {
		t.Fatal(err)
	}
	start(t, g)
	eventually(t, "subscribed", g.subscribed.Load)
	done := taking(t.Context(), g, Need{ID: "a"})
	f.sleeps(t, 30*time.Second) // in line
	for range 4 {               // its lease is 20 s
		select {
		case err := <-done:
			t.Fatalf("passed while the lease lasted: %v", err)
		default:
		}
		f.pass(t, 5*time.Second)
		f.sleeps(t, 5*time.Second) // the own lease is renewed
	}
	if err := waitFor(t, done); err != nil {
		t.Error(err)
	}
}

// The lease of a process at work is renewed.
func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	l := Limits{Concurrency: 1}
	g, other := f.gate(t, rdb, l), f.gate(t, rdb, l)
	start(t, g)
	take(t, g, Need{ID: "a"})
	for range 12 { // three leases
		f.pass(t, 5*time.Second)
		f.sleeps(t, 5*time.Second)
		if s := state(t, other); s.InFlight != 1 {
			t.Fatalf("%d in flight, want 1", s.InFlight)
		}
	}
}

func TestNothingPassesWithoutRedis(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.Options{AOF: "always"})
	rdb := redis.NewClient(&redis.Options{ // does not try again by itself
		Network: "unix", Addr: srv.Socket(), MaxRetries: -1, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = rdb.Close() })
	f := newFakeClock()
	reg := prometheus.NewRegistry()
	g := f.gate(t, rdb, Limits{RequestsPerMinute: 6000}, func(c *Config) { c.Metrics = reg })
	start(t, g)
	before := take(t, g, Need{ID: "before", Class: "c"})
	srv.Kill()
	failed := func(n float64) func() bool {
		return func() bool {
			f.advance(2 * time.Second) // the longest pause between two questions
			return counter(t, reg, "sluice_gate_acquires_total", "result", "error") >= n
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	during := taking(ctx, g, Need{ID: "during", Class: "c"})
	eventually(t, "it is asked for, again and again", failed(3))
	cancel()
	if err := waitFor(t, during); !errors.Is(err, context.Canceled) {
		t.Errorf("without Redis: got %v, want the context's end", err)
	}
	if err := g.Settle(t.Context(), before, Actual{}); err == nil {
		t.Error("settled without Redis")
	}
	done := taking(t.Context(), g, Need{ID: "after", Class: "c"})
	srv.Start()
	eventually(t, "Redis is asked again", func() bool {
		f.advance(2 * time.Second)
		return g.queued() == 0
	})
	if err := waitFor(t, done); err != nil {
		t.Error(err)
	}
	eventually(t, "the settlement is written later", func() bool {
		f.advance(2 * time.Second)
		return state(t, g).InFlight == 1
	})
}

func TestStateLostWhileWorking(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	g := f.gate(t, rdb, Limits{RequestsPerMinute: 6000, RequestBurst: 10})
	start(t, g)
	take(t, g, Need{ID: "before"})
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	done := taking(t.Context(), g, Need{ID: "after"})
	f.sleeps(t, time.Second)
	select {
	case err := <-done:
		t.Fatalf("passed within a second after the state was lost: %v", err)
	default:
	}
	f.pass(t, time.Second)
	if err := waitFor(t, done); err != nil {
		t.Error(err)
	}
}

func TestIdleGateAsksRedisNothing(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	f := newFakeClock()
	g := f.gate(t, rdb, Limits{RequestsPerMinute: 600})
	start(t, g)
	settle(t, g, take(t, g, Need{ID: "a"}), Actual{})
	eventually(t, "subscribed", g.subscribed.Load)
	before := commands(t, rdb)
	for range 100 {
		f.pass(t, 5*time.Second)
	}
	f.sleeps(t, 5*time.Second)
	if got := commands(t, rdb) - before; got > 1 {
		t.Errorf("%d commands in 500 s, want only this test's own", got)
	}
}

func commands(t testing.TB, rdb *redis.Client) int {
	t.Helper()
	info, err := rdb.Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "total_commands_processed:")
	var n int
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMetricsOfTwoPoolsInOneRegistry(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	reg := prometheus.NewRegistry()
	for _, pool := range []string{"p", "q"} {
		g := newGate(t, rdb, Limits{RequestsPerMinute: 600}, func(c *Config) { c.Metrics, c.Pool = reg, pool })
		start(t, g)
		settle(t, g, take(t, g, Need{ID: "a"}), Actual{Known: true})
	}
	const want = `
# HELP sluice_gate_acquires_total Questions for a slot, by answer: granted at once, booked ahead, hold, far (line too long), full (concurrency), late (its time had passed, so it was given back), error.
# TYPE sluice_gate_acquires_total counter
sluice_gate_acquires_total{pool="p",result="granted"} 1
sluice_gate_acquires_total{pool="q",result="granted"} 1
# HELP sluice_gate_settles_total Settlements, by kind: used, expected, input, back (handed back), unknown (expired before), error.
# TYPE sluice_gate_settles_total counter
sluice_gate_settles_total{pool="p",result="used"} 1
sluice_gate_settles_total{pool="q",result="used"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "sluice_gate_acquires_total", "sluice_gate_settles_total"); err != nil {
		t.Error(err)
	}
}

func TestFaultyConfig(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	for _, cfg := range []Config{
		{Pool: "p"},
		{Redis: rdb},
		{Redis: rdb, Pool: "a{b"},
		{Redis: rdb, Pool: "p", Prefix: "a b"},
		{Redis: rdb, Pool: "p", Limits: Limits{RequestsPerMinute: -1}},
		{Redis: rdb, Pool: "p", Limits: Limits{Concurrency: -1}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("pool %q, %+v: no error", cfg.Pool, cfg.Limits)
		}
	}
	g := newGate(t, rdb, Limits{})
	for _, id := range []string{"", "a b", "a\xff"} {
		if _, err := g.Take(t.Context(), Need{ID: id}); err == nil {
			t.Errorf("Need.ID %q: no error", id)
		}
	}
}

func TestDefaultBurst(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		l    Limits
		want int64
	}{
		{Limits{}, 10},
		{Limits{RequestsPerMinute: 5}, 1},
		{Limits{RequestsPerMinute: 240}, 4},
		{Limits{RequestsPerMinute: 4000}, 10},
		{Limits{RequestsPerMinute: 60_000}, 100},
		{Limits{RequestsPerMinute: 60_000, RequestBurst: 7}, 7},
	} {
		if got := row.l.burst(); got != row.want {
			t.Errorf("%+v: burst %d, want %d", row.l, got, row.want)
		}
	}
}

// Channels that are permitted only later are heard from then on; until then those
// in line ask for themselves.
func TestAGateHearsOnceItMay(t *testing.T) {
	t.Parallel()
	admin := redistest.New(t)
	grant := func(rules ...any) {
		if err := admin.Do(t.Context(), append([]any{"ACL", "SETUSER", "app"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	grant("on", ">pw", "~*", "+@all")
	o := *admin.Options()
	o.Username, o.Password = "app", "pw"
	rdb := redis.NewClient(&o)
	t.Cleanup(func() { _ = rdb.Close() })
	a, b := newGate(t, rdb, Limits{Concurrency: 1}), newGate(t, rdb, Limits{Concurrency: 1})
	start(t, a)
	start(t, b)
	first, err := a.Take(t.Context(), Need{ID: "a", Class: "c"})
	if err != nil {
		t.Fatal(err)
	}
	done := taking(t.Context(), b, Need{ID: "b", Class: "c"})
	eventually(t, "b stands in line", func() bool { return rdb.ZCard(t.Context(), b.keys[5]).Val() == 1 })
	settle(t, a, first, Actual{Known: true})
	told := time.Now()
	if err := waitFor(t, done); err != nil || time.Since(told) > 20*time.Second { // half a minute, of one that could hear
		t.Fatalf("b's turn came with %v after %v; want it as soon as b asks itself", err, time.Since(told))
	}
	if a.subscribed.Load() || b.subscribed.Load() {
		t.Error("a gate hears although it may not")
	}
	grant("&sluice:*")
	eventually(t, "both gates hear", func() bool { return a.subscribed.Load() && b.subscribed.Load() })
}

// A call behind one whose input was guessed far too high waited for that figure when
// it had long been corrected. The clock stands still here: no pace lets it through.
func TestNobodyWaitsForAFigureThatWasNeverTrue(t *testing.T) {
	t.Parallel()
	for _, settled := range []string{"at its end", "as soon as it is known"} {
		rdb := redistest.New(t)
		f := newFakeClock()
		l := Limits{InputTokensPerMinute: 6000}
		first, second := f.gate(t, rdb, l), f.gate(t, rdb, l)
		start(t, first)
		start(t, second)
		eventually(t, "both hear", func() bool { return first.subscribed.Load() && second.subscribed.Load() })
		grant := take(t, first, Need{ID: "guessed", Class: "c", InputTokens: 3000})
		waiting := []<-chan error{
			taking(t.Context(), first, Need{ID: "here", Class: "c", InputTokens: 1000}),
			taking(t.Context(), second, Need{ID: "there", Class: "c", InputTokens: 1000}),
		}
		f.until(t, "both pumps wait for a slot or their turn", func(left []time.Duration) bool { return first.queued() == 1 && second.queued() == 1 && len(left) == 4 })
		if settled == "at its end" {
			settle(t, first, grant, Actual{Known: true, InputTokens: 10, OutputTokens: 1})
		} else if err := first.SettleInput(t.Context(), grant, 10, nil); err != nil {
			t.Fatal(err)
		}
		for range waiting {
			select {
			case err := <-waiting[0]:
				waiting[0] = nil
				if err != nil {
					t.Fatal(err)
				}
			case err := <-waiting[1]:
				waiting[1] = nil
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(time.Minute):
				t.Fatalf("settled %s: nobody else passes, the state is %+v", settled, state(t, first))
			}
		}
	}
}

// A call whose place comes too late for it is told so at once, by the place that it has and not by
// a guess: whoever is told would have been later, whoever goes is in time, and the places of those
// who are told are others'.
func TestACallWhosePlaceComesTooLateIsToldAtOnce(t *testing.T) {
	t.Parallel()
	f, dice := newFakeClock(), rand.New(rand.NewPCG(1, 16))
	g := f.gate(t, redistest.New(t), Limits{RequestsPerMinute: 60, RequestBurst: 1})
	start(t, g)
	settle(t, g, take(t, g, Need{ID: "first", Class: "c"}), Actual{Known: true})
	type told struct {
		at  time.Time
		err error
	}
	var sent []time.Time
	for n := range 40 {
		within := time.Duration(dice.IntN(2500)+1) * time.Millisecond
		if n%8 == 0 {
			within = 0
		}
		asked, done := f.now(), make(chan told, 1)
		go func() {
			grant, err := g.Take(t.Context(), Need{ID: "a", Class: "c", Within: within})
			at := f.now()
			if err == nil {
				settle(t, g, grant, Actual{Known: true})
			}
			done <- told{at: at, err: err}
		}()
		var got told
		for waits := true; waits; {
			eventually(t, "it is told, or waits", func() bool {
				select {
				case got = <-done:
					waits = false
					return true
				default:
					return f.sleeping() == 2 // it, and the renewal of leases
				}
			})
			if waits {
				f.next()
			}
		}
		var late *LateError
		switch {
		case got.err == nil && within > 0 && got.at.Sub(asked) > within:
			t.Errorf("call %d went after %v, and was of use for %v", n, got.at.Sub(asked), within)
		case got.err == nil:
			sent = append(sent, got.at)
		case !errors.As(got.err, &late) || got.at != asked || late.Wait <= within || within == 0:
			t.Errorf("call %d, of use for %v, was told %v after %v", n, within, got.err, got.at.Sub(asked))
		default:
			f.advance(time.Duration(dice.IntN(300)) * time.Millisecond)
		}
	}
	for i := range sent[1:] {
		if gap := sent[i+1].Sub(sent[i]); gap < 990*time.Millisecond || gap > 1310*time.Millisecond && len(sent) == 40 {
			t.Errorf("call %d was sent %v after the one before", i+1, gap)
		}
	}
	if len(sent) < 8 || len(sent) > 36 {
		t.Errorf("%d of 40 calls were sent: nothing was tried", len(sent))
	}
}
