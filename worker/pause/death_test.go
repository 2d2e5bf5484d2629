package pause

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// gate is the world's, out of reach of a dead process.
type gate struct {
	w   *world
	rdb redis.UniversalClient
}

func (g gate) Hold(ctx context.Context, d time.Duration, reason string) error {
	if err := g.rdb.Ping(ctx).Err(); err != nil {
		return err
	}
	return g.w.Hold(ctx, d, reason)
}

func (g gate) Resume(ctx context.Context, pace float64) error {
	if err := g.rdb.Ping(ctx).Err(); err != nil {
		return err
	}
	return g.w.Resume(ctx, pace)
}

// TestProcessDeath walks breaker state × operator × what a process does × the
// command at which it dies, before or after that took effect. A process that starts afterwards
// finds queue, gate and state in step, and nothing of an operator's undone.
func TestProcessDeath(t *testing.T) {
	t.Parallel()
	breakers := map[string]func(w *world, b *Breaker){
		"closed": func(w *world, b *Breaker) { w.record(b, good); w.pass(time.Second) },
		"open":   func(w *world, b *Breaker) { w.trip(b); w.pass(10 * time.Second) },
		"half open": func(w *world, b *Breaker) {
			w.trip(b)
			w.answers(good)
			w.until(b, HalfOpen, 10*time.Second)
		},
		"slow start": func(w *world, b *Breaker) {
			w.trip(b)
			w.answers(good)
			w.until(b, SlowStart, 10*time.Second)
		},
		"key refused": func(w *world, b *Breaker) { w.record(b, Verdict{Kind: Unauthorized}) },
	}
	acts := map[string]func(ctx context.Context, w *world, b *Breaker) error{
		"trip": func(ctx context.Context, w *world, b *Breaker) error {
			return b.Record(ctx, Verdict{Kind: Spend})
		},
		"pause":  func(ctx context.Context, w *world, b *Breaker) error { return b.Pause(ctx, "bob", "now") },
		"resume": func(ctx context.Context, w *world, b *Breaker) error { return b.Resume(ctx, "bob") },
		"recover": func(ctx context.Context, w *world, b *Breaker) error {
			w.answers(good)
			var errs error
			for range 4 {
				errs = errors.Join(errs, b.step(ctx))
			}
			return errs
		},
		"probe in vain": func(ctx context.Context, w *world, b *Breaker) error {
			w.answers(bad)
			return b.step(ctx)
		},
	}
	for from, arrange := range breakers {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			alive := redistest.New(t)
			rdb, m := redis.NewClient(alive.Options()), new(mortal)
			defer rdb.Close()
			rdb.AddHook(m)
			cases := 0
			defer func() { t.Logf("%d cases", cases) }()
			for _, operator := range []bool{false, true} {
				before := arranged(t, alive, operator, arrange)
				for act, do := range acts {
					for _, late := range []bool{false, true} {
						for n := int64(1); ; n++ {
							cases++
							name := fmt.Sprintf("%s, operator %t, %s, dies at %d, late %t", from, operator, act, n, late)
							if !dies(t, alive, rdb, m, name, before, operator, act, n, late, do) {
								break
							}
							if n > 60 {
								t.Fatalf("%s: it never ends", name)
							}
						}
					}
				}
			}
		})
	}
}

// past is a world and its Redis, to be begun from many times.
type past struct {
	keys     map[string]string
	at, held time.Time
	pace     float64
	paceAt   time.Time
	provider Verdict
}

func arranged(t *testing.T, rdb *redis.Client, operator bool, arrange func(*world, *Breaker)) *past {
	t.Helper()
	ctx := t.Context()
	w := (&past{at: time.UnixMilli(1_800_000_000_000), pace: 1, provider: bad}).again(t, rdb)
	b := w.breaker()
	arrange(w, b)
	if operator {
		if err := b.Pause(ctx, "ada", "before"); err != nil {
			t.Fatal(err)
		}
	}
	p := &past{keys: map[string]string{}, at: w.at, held: w.held, pace: w.pace, paceAt: w.paceAt, provider: w.provider}
	for _, key := range rdb.Keys(ctx, "*").Val() {
		p.keys[key] = rdb.Dump(ctx, key).Val()
	}
	return p
}

func (p *past) again(t *testing.T, rdb *redis.Client) *world {
	t.Helper()
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for key, dump := range p.keys {
		if err := rdb.Restore(t.Context(), key, 0, dump).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return &world{
		t: t, rdb: rdb, at: p.at, rnd: 0.5, held: p.held, pace: p.pace, paceAt: p.paceAt, provider: p.provider,
	}
}

// dies runs one case; false means that the process ended its act alive.
func dies(t *testing.T, alive, rdb *redis.Client, m *mortal, name string, before *past, operator bool, act string, n int64, late bool,
	do func(context.Context, *world, *Breaker) error) bool {
	ctx := t.Context()
	w := before.again(t, alive)

	m.late = late
	m.left.Store(n)
	c := w.config(rdb)
	c.Gate = gate{w, rdb}
	actErr := do(ctx, w, w.build(c))
	died := m.left.Load() <= 0

	// The one that follows does not probe, so that the state stays as it was left;
	// it has time for claims and graces to lapse.
	c = w.config(w.rdb)
	c.Probe = nil
	next := w.build(c)
	w.step(next)
	w.pass(slowStart + time.Second)
	w.step(next)
	w.step(next)
	s, err := next.look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st := s.state()
	if w.queuePaused() != st.Paused {
		t.Errorf("%s: queue paused %t, state %+v", name, w.queuePaused(), st)
	}
	if flow := w.flow(); flow != st.Pace {
		t.Errorf("%s: gate at %v, state wants %v", name, flow, st.Pace)
	}
	if s.owned() != st.Paused {
		t.Errorf("%s: pause marked as ours: %t, paused: %t", name, s.owned(), st.Paused)
	}
	if s.h["op_by"] == "unknown" {
		t.Errorf("%s: our own pause was taken for somebody else's", name)
	}
	if operator && act != "resume" && !s.operator() {
		t.Errorf("%s: the operator's pause is gone", name)
	}
	if !operator && act != "pause" && s.operator() {
		t.Errorf("%s: an operator's pause came from nowhere", name)
	}
	if act == "pause" && actErr == nil && (s.h["op_by"] != "bob" || !s.operator()) {
		t.Errorf("%s: pause succeeded and does not hold", name)
	}
	if act == "resume" && actErr == nil && s.operator() {
		t.Errorf("%s: resume succeeded and it is still paused", name)
	}
	return died
}
