package pause

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// While Redis is nearly full the pool is paused, by a write that a full Redis takes, and
// that is nobody else's pause: an operator's stays, and comes in a full Redis too.
func TestMemoryHoldsThePoolBesideOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := redistest.Start(t, redistest.Options{})
	w.rdb = server.Client()
	ctx := t.Context()
	one, other := w.breaker(), w.breaker()
	want := func(what string, paused bool, by string) {
		t.Helper()
		for _, b := range []*Breaker{one, other} {
			s, err := b.enforce(ctx)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			st := s.state()
			if st.Paused != paused || st.PausedBy != by || (st.Pace > 0) == paused || !st.ExpectedResumeAt.IsZero() {
				t.Errorf("%s: %+v, want paused %t by %q", what, st, paused, by)
			}
			if (w.flow() > 0) == paused {
				t.Errorf("%s: the gate lets %v through", what, w.flow())
			}
		}
		if n := w.rdb.Exists(ctx, "asynq:{"+pool+"}:paused").Val(); (n == 1) != paused {
			t.Errorf("%s: the queue is paused: %d", what, n)
		}
	}
	full := func(on bool) {
		t.Helper()
		for _, b := range []*Breaker{one, other} { // each process hears of it
			if err := b.Memory(ctx, on); err != nil {
				t.Fatal(err)
			}
		}
	}
	want("at first", false, "")
	if err := server.Client().ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for _, act := range []struct {
		script *redis.Script
		a      args
	}{
		{one.script.memory, args{"on": 1}},
		{one.script.operate, args{"op": "1", "verb": "pause", "by": "ann", "reason": "maintenance"}},
		{other.script.record, other.rules(verdictArgs(args{"goods": 0, "models": []any{}, "good_age": 0, "kind": "bad", "age": 0, "ask": 0, "raise": 0}, Verdict{Kind: Bad}))},
	} {
		if _, _, err := one.run(ctx, act.script, act.a); err != nil {
			t.Errorf("in a full Redis: %v", err)
		}
	}
	if err := server.Client().ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	want("an operator's too", true, ByOperator)
	full(false)
	want("room again", true, ByOperator)
	if err := one.Resume(ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	want("resumed", false, "")
	full(true)
	want("full", true, ByMemory)
	if err := one.Resume(ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	want("resumed in vain", true, ByMemory)
	full(false)
	want("room at last", false, "")
}
