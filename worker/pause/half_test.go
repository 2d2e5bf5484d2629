package pause

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// halves are what each script does: what comes before it, and the move.
var halves = map[string]func(w *world, b *Breaker) func() error{
	"record": func(w *world, b *Breaker) func() error {
		return w.records(b, 2, bad, 0)
	},
	"record, what opens it": func(w *world, b *Breaker) func() error {
		return w.records(b, 2, Verdict{Kind: Spend}, 0)
	},
	"operate": func(w *world, b *Breaker) func() error {
		return func() error { return b.Pause(w.t.Context(), "ada", "maintenance") }
	},
	"operate, resume": func(w *world, b *Breaker) func() error {
		w.must(w.records(b, 0, Verdict{Kind: Spend}, 0)())
		return func() error { return b.Resume(w.t.Context(), "ada") }
	},
	"lapse": func(w *world, b *Breaker) func() error {
		w.must(b.PauseUntil(w.t.Context(), "ada", "maintenance", w.now().Add(time.Minute)))
		w.pass(time.Hour)
		return w.runs(b, b.script.lapse, args{})
	},
	"take": func(w *world, b *Breaker) func() error {
		w.must(w.records(b, 0, Verdict{Kind: Spend}, 0)())
		w.pass(time.Hour)
		return w.runs(b, b.script.take, args{"lease": 1000})
	},
	"probed": func(w *world, b *Breaker) func() error {
		w.must(w.records(b, 0, Verdict{Kind: Spend}, 0)())
		w.pass(time.Hour)
		fence, _, err := b.run(w.t.Context(), b.script.take, b.rules(args{"lease": 1000}))
		w.must(err)
		return w.runs(b, b.script.probed, verdictArgs(args{"fence": fence, "kind": "good"}, good))
	},
	"mark": func(w *world, b *Breaker) func() error {
		return w.runs(b, b.script.mark, args{"rev": 0, "field": "own", "value": 1})
	},
	"adopt": func(w *world, b *Breaker) func() error {
		return w.runs(b, b.script.adopt, args{"rev": 0, "by": "asynqmon", "reason": "x", "grace": 0})
	},
	"restore": func(w *world, b *Breaker) func() error {
		return w.runs(b, b.script.restore, args{"was_gen": "g", "was_rev": 3, "was_fence": 2, "op": 1, "op_by": "ada", "op_why": "x", "op_at": 1, "op_until": 5, "own": 1, "held": 1})
	},
	"arrive": func(w *world, b *Breaker) func() error {
		w.must(w.records(b, 0, Verdict{Kind: Spend}, 0)())
		return w.runs(b, b.script.arrive, args{"fp": "another key"})
	},
	"ask": func(w *world, b *Breaker) func() error {
		w.suspect(b)
		return w.runs(b, b.script.ask, args{"lease": 1000, "retry_after": 0})
	},
	"opinion": func(w *world, b *Breaker) func() error {
		w.suspect(b)
		fence, _, err := b.run(w.t.Context(), b.script.ask, b.rules(args{"lease": 1000, "retry_after": 0}))
		w.must(err)
		return w.runs(b, b.script.opinion, args{"fence": fence, "kind": "alone", "misfit": 0, "reason": "x", "detail": "", "retry_after": 0, "resume_at": 0})
	},
	"model": func(w *world, b *Breaker) func() error {
		w.suspect(b)
		w.must(w.runs(b, b.script.model, args{"model": "m", "verb": "bad", "reason": "x", "lease": 1000})())
		return w.runs(b, b.script.model, args{"model": "m", "verb": "well", "reason": "", "lease": 1000})
	},
	"others": func(w *world, b *Breaker) func() error {
		w.suspect(b)
		return w.runs(b, b.script.others, args{"gone": 1})
	},
	"memory": func(w *world, b *Breaker) func() error {
		return w.runs(b, b.script.memory, args{"on": 1})
	},
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// records is an outcome that is counted, behind so many good ones.
func (w *world) records(b *Breaker, goods int, v Verdict, raise int) func() error {
	v.Model, v.Job = "m", "job_1"
	return w.runs(b, b.script.record, verdictArgs(args{
		"goods": goods, "good_age": 5, "models": [][]any{{"m2", goods, 5}}, "kind": v.Kind, "age": 0, "raise": raise, "ask": 1,
	}, v))
}

// suspect has a model under suspicion, with a book of its calls.
func (w *world) suspect(b *Breaker) {
	w.t.Helper()
	w.must(w.records(b, 1, bad, 1)())
	w.pass(time.Second)
}

func (w *world) runs(b *Breaker, s *redis.Script, a args) func() error {
	return func() error {
		all := b.rules(args{})
		maps.Copy(all, a)
		_, _, err := b.run(w.t.Context(), s, all)
		return err
	}
}

// A script that Redis refuses something has moved all that it moves elsewhere, or
// nothing; every script but those that write nothing is tried.
func TestNoScriptMovesByHalves(t *testing.T) {
	t.Parallel()
	tried := map[string]bool{"look": true, "lib": true, "suspicion": true}
	names := make(chan string, len(halves))
	t.Run("scripts", func(t *testing.T) {
		for name, c := range halves {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				rdb := w.rdb.(*redis.Client)
				watched := redis.NewClient(rdb.Options())
				t.Cleanup(func() { _ = watched.Close() })
				seen := redistest.Watch(watched)
				cfg := w.config(watched)
				cfg.Ask = func(context.Context, string, []string) (Verdict, error) { return bad, nil }
				b := w.build(cfg)
				act := c(w, b)
				before := redistest.Read(t, rdb)
				script, _, _ := strings.Cut(name, ",")
				call := seen.Once(t, ".", script, act)
				names <- script
				redistest.Refuse(t, rdb, before, call, nil, func(r redistest.Refused) {
					if r.Half() {
						t.Error(r)
					}
				})
			})
		}
	})
	close(names)
	for name := range names {
		tried[name] = true
	}
	if len(tried) < 5 {
		return // -run has chosen one
	}
	for _, file := range redistest.Scripts(t, ".") {
		if name := strings.TrimSuffix(file, ".lua"); !tried[name] {
			t.Errorf("no row tries %s", file)
		}
	}
}
