package pause

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const pool = "claude"

// world is what the breakers of a test share: Redis, its clock, the gate, the
// and the provider.
type world struct {
	t   *testing.T
	rdb redis.UniversalClient
	log []string // what was done to gate and queue, in order

	mu       sync.Mutex
	at       time.Time
	rnd      float64
	held     time.Time // the gate lets nothing through before
	pace     float64   // at paceAt; it doubles each 5 s
	paceAt   time.Time
	provider Verdict
	probes   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		t: t, rdb: redistest.New(t), at: time.UnixMilli(1_800_000_000_000), rnd: 0.5, pace: 1,
		provider: Verdict{Kind: Bad, Reason: "overloaded"},
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

func (w *world) answers(v Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.provider = v
}

func (w *world) probe(context.Context) (Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes++
	return w.provider, nil
}

// Hold and Resume are the gate.
func (w *world) Hold(_ context.Context, d time.Duration, reason string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, "hold")
	if until := w.at.Add(d); until.After(w.held) {
		w.held = until
	}
	return nil
}

func (w *world) Resume(_ context.Context, pace float64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, "let go")
	w.held, w.pace, w.paceAt = time.Time{}, pace, w.at
	return nil
}

// flow is the share of the allowance that the gate lets through now.
func (w *world) flow() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at.Before(w.held) {
		return 0
	}
	pace := w.pace
	for at := w.paceAt.Add(5 * time.Second); !at.After(w.at) && pace < 1; at = at.Add(5 * time.Second) {
		pace *= 2
	}
	return min(1, pace)
}

// queue keeps the pause as Asynq does: one key, no owner.
type queue struct {
	w   *world
	rdb redis.UniversalClient
}

func (q queue) Pause(ctx context.Context, pool string) error {
	q.w.mu.Lock()
	q.w.log = append(q.w.log, "pause")
	q.w.mu.Unlock()
	return q.rdb.SetNX(ctx, "asynq:{"+pool+"}:paused", 1, 0).Err()
}

func (q queue) Resume(ctx context.Context, pool string) error {
	q.w.mu.Lock()
	q.w.log = append(q.w.log, "resume")
	q.w.mu.Unlock()
	return q.rdb.Del(ctx, "asynq:{"+pool+"}:paused").Err()
}

func (q queue) Paused(ctx context.Context, pool string) (bool, error) {
	n, err := q.rdb.Exists(ctx, "asynq:{"+pool+"}:paused").Result()
	return n == 1, err
}

// config is a breaker's that lives in this world.
func (w *world) config(rdb redis.UniversalClient) Config {
	return Config{
		Redis: rdb, Pool: pool, Queue: queue{w, rdb}, Gate: w, Probe: w.probe, Fingerprint: "key one",
		now: w.now, rnd: func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.rnd
		},
	}
}

func (w *world) breaker() *Breaker { return w.build(w.config(w.rdb)) }

func (w *world) build(c Config) *Breaker {
	w.t.Helper()
	b, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// step is one turn of the loop of Run, with a probe made in line.
func (b *Breaker) step(ctx context.Context) error {
	s, err := b.enforce(ctx)
	if b.probe == nil || s.now == 0 {
		return err
	}
	if fence, _ := b.takeProbe(ctx, s); fence > 0 {
		b.probeOnce(ctx, fence)
	}
	return err
}

func (w *world) step(b *Breaker) {
	w.t.Helper()
	if err := b.step(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// state reads past the cache.
func (w *world) state(b *Breaker) State {
	w.t.Helper()
	s, err := b.look(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return s.state()
}

func (w *world) queuePaused() bool {
	w.t.Helper()
	p, err := queue{w, w.rdb}.Paused(w.t.Context(), pool)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) record(b *Breaker, vs ...Verdict) {
	w.t.Helper()
	for _, v := range vs {
		if err := b.Record(w.t.Context(), v); err != nil {
			w.t.Fatal(err)
		}
	}
}

// trip opens the breaker by a row of failures.
func (w *world) trip(b *Breaker) {
	w.t.Helper()
	for range 5 {
		w.record(b, Verdict{Kind: Bad, Reason: "overloaded"})
	}
	if s := w.state(b); s.Name != Open {
		w.t.Fatalf("after five failures: %+v", s)
	}
}

// until steps b, a quarter of a second at a time, until the pool is in this state.
func (w *world) until(b *Breaker, name Name, limit time.Duration) time.Duration {
	w.t.Helper()
	for d := time.Duration(0); d <= limit; d += 250 * time.Millisecond {
		w.step(b)
		if w.state(b).Name == name {
			return d
		}
		w.pass(250 * time.Millisecond)
	}
	w.t.Fatalf("not %s within %s: %+v", name, limit, w.state(b))
	return 0
}

// mortal is a client whose process dies at its n-th command: that command and all
// later ones fail. Whether the last one still took effect is late's to say.
type mortal struct {
	left atomic.Int64
	late bool
}

var errDead = errors.New("this process is dead")

func (m *mortal) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (m *mortal) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (m *mortal) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		switch n := m.left.Add(-1); {
		case n > 0:
			return next(ctx, cmd)
		case n == 0 && m.late:
			if err := next(ctx, cmd); err != nil && !errors.Is(err, redis.Nil) {
				cmd.SetErr(err)
				return err // as with NOSCRIPT, nothing took effect: it dies at the next
			}
		}
		cmd.SetErr(errDead)
		return errDead
	}
}
