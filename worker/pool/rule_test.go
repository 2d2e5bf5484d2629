package pool

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/pause"
)

// Whatever happens to models, processes and prompts, and whoever submits: the pool is
// paused only when no process that makes calls could get an answer of any model, and
// then it is; a job that is well answered ends; one that fails alone is counted.
func TestThePoolIsPausedOnlyWhenTheRuleSaysSo(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			dice := rand.New(rand.NewPCG(seed, 7))
			w := newTown(t)
			w.answer = func(prompt string) (int, string) {
				if strings.HasPrefix(prompt, "POISON") {
					return []int{500, 503, 529, 502}[len(prompt)%4], `{"error":{"message":"it cannot be read"}}`
				}
				return 200, ""
			}
			models, all := []string{"gpt-a", "gpt-b", "gpt-c"}, []*process{w.process("one"), w.process("two"), w.process("three")}
			for i, m := range models {
				all[i].job(fmt.Sprint("first ", i), m, "hello")
			}
			eventually(t, "all know all", func() bool {
				for _, p := range all {
					if n, err := p.h.breaker.Others(t.Context()); err != nil || n != 2 || len(p.h.breaker.Known()) != 3 {
						return false
					}
				}
				return true
			})
			// answered reports whether anybody who makes calls could get an answer.
			answered := func() bool {
				if w.down != 0 || len(w.ill) == len(models) {
					return false
				}
				for _, p := range all {
					if !w.cut[p.name] && p.h.Away() == "" {
						return true
					}
				}
				return false
			}
			healed := func() {
				w.set(func() { w.down = 0; clear(w.ill); clear(w.cut) })
				eventually(t, "all is well again", func() bool {
					for _, p := range all {
						if p.h.Away() != "" {
							return false
						}
						for _, m := range models {
							if p.h.Held(t.Context(), m) != 0 {
								return false
							}
						}
					}
					return !w.state().Paused
				})
			}
			id, paused := 0, 0
			for step := range 20 {
				what := ""
				w.set(func() {
					switch dice.IntN(6) {
					case 0:
						m := models[dice.IntN(3)]
						w.ill[m], what = []int{500, 503, 200}[dice.IntN(3)], "ill "+m
					case 1:
						clear(w.ill)
					case 2:
						p := all[dice.IntN(3)].name
						w.cut[p], what = true, "cut "+p
					case 3:
						w.down = []int{0, 0, 503, 529}[dice.IntN(4)]
						what = fmt.Sprint("down ", w.down)
					}
				})
				for range 1 + dice.IntN(12) {
					p, m, prompt := all[dice.IntN(3)], models[dice.IntN(3)], "hello"
					if dice.IntN(4) == 0 {
						prompt = "POISON" + strings.Repeat("!", dice.IntN(4))
					}
					if p.h.Away() != "" || p.h.Held(t.Context(), m) > 0 || w.state().Paused {
						continue // a worker makes no such call
					}
					id++
					job := fmt.Sprint("job ", id-dice.IntN(2)) // of some tenant, now and then again
					a, s := p.job(job, m, prompt)
					if a.Outcome == tasks.Succeeded && s != Open {
						t.Fatalf("step %d, %s: a success is standing %d", step, what, s)
					}
					if s == Away && !w.cut[p.name] {
						t.Fatalf("step %d, %s: %s is away, and its way is open", step, what, p.name)
					}
					if st := w.state(); st.Paused {
						paused++
						if answered() {
							t.Fatalf("step %d, %s: paused, for %q, and there are answers: ill %v, cut %v", step, what, st.Reason, w.ill, w.cut)
						}
						if st.Cause != pause.Overload || st.Since.IsZero() {
							t.Errorf("step %d: %+v", step, st)
						}
						break
					}
					if w.ill[m] == 0 && w.down == 0 && !w.cut[p.name] && prompt != "hello" && s != Open {
						t.Errorf("step %d, %s: a prompt that fails alone is standing %d", step, what, s)
					}
				}
				if w.state().Paused {
					healed()
				}
			}
			healed()
			w.set(func() { w.down = 503 })
			eventually(t, "an outage that all see pauses the pool", func() bool {
				id++
				if p, m := all[id%3], models[id%3]; p.h.Held(t.Context(), m) == 0 {
					p.job(fmt.Sprint("last ", id), m, "hello")
				}
				return w.state().Paused
			})
			t.Logf("%d jobs, paused %d times", id, paused)
		})
	}
}
