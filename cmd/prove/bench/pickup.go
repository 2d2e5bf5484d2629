package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

const (
	warmUps  = 20
	idleSpan = 20 * time.Second
)

// Pickup measures how soon an idle system sends what it is given, and what
// being idle costs.
type Pickup struct {
	Options
	Rounds  int    `default:"300" help:"Submits, after a few for warmth."`
	Against string `type:"existingfile" placeholder:"FILE" help:"Another program of the same kind, given the same submits in turns with this one: both figures are of one run, and their ratio says which is sooner."`
}

// Run submits one at a time, then watches the processes idle.
func (p *Pickup) Run(ctx context.Context, lab *rig.Lab) error {
	s := setup{name: "pickup", aof: p.fsync("everysec"), limits: roomy(), workers: 1, fake: fake.Config{MeanOutputTokens: 8}}
	return p.measure(ctx, func(ctx context.Context) error {
		return p.with(ctx, lab, s, func(st *stack) error {
			if p.Against == "" {
				return p.alone(ctx, st)
			}
			s.name += "-against"
			return p.with(ctx, &rig.Lab{Bin: p.Against, Dir: lab.Dir}, s, func(other *stack) error { return p.compare(ctx, st, other) })
		})
	})
}

func (p *Pickup) alone(ctx context.Context, st *stack) error {
	picks, err := p.submit(ctx, st)
	if err != nil {
		return err
	}
	if err := rig.Wait(ctx, 2*time.Second); err != nil {
		return err
	}
	return st.watch(ctx, picks[0])
}

// compare reports how soon each of two stacks sends, and the processor time of its
// processes for one job.
func (p *Pickup) compare(ctx context.Context, st, other *stack) error {
	picks, err := p.submit(ctx, st, other)
	if err != nil {
		return err
	}
	mine, others := picks[0], picks[1]
	beside := func(name, form string, a, b float64) figure {
		return plain(name, form, a, fmt.Sprintf("the other "+form+"; %.3f of it", b, a/b))
	}
	list := []figure{
		beside("submit to provider, p50", "%.2f ms", percentile(mine.sent, 0.5), percentile(others.sent, 0.5)),
		beside("submit to provider, p99", "%.2f ms", percentile(mine.sent, 0.99), percentile(others.sent, 0.99)),
		beside("submit to 202, p50", "%.2f ms", percentile(mine.answered, 0.5), percentile(others.answered, 0.5)),
	}
	for i, name := range mine.names {
		list = append(list, beside("  processor time of "+name, "%.0f us a job", mine.spent[i], others.spent[i]))
	}
	return report(fmt.Sprintf("pickup: %d submits each to two programs in turns, appendfsync %s", len(mine.sent), st.aof), list)
}

// picks is what the submits to one stack took, in ms.
type picks struct {
	sent     []float64 // to the provider
	answered []float64 // to the API's answer
	names    []string  // of its processes
	spent    []float64 // processor time of each for one job, in us
}

// submit submits one job at a time, to each stack in turns.
func (p *Pickup) submit(ctx context.Context, stacks ...*stack) ([]picks, error) {
	found := make([]picks, len(stacks))
	conns := make([]*rig.Conn, len(stacks))
	began := make([][]time.Duration, len(stacks))
	for k, st := range stacks {
		c, err := rig.Dial(ctx, st.api)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conns[k] = c
	}
	waits := []func(){}
	for i := range warmUps + p.Rounds {
		for n := range stacks {
			k := (n + i) % len(stacks) // who is first is sooner or later than who is next
			st := stacks[k]
			if i == warmUps {
				var err error
				if found[k].names, began[k], err = st.cpu(); err != nil {
					return nil, err
				}
				waits = append(waits, st.profile(ctx, st.name, 10*time.Second))
			}
			sent, answered, err := pick(ctx, st, conns[k], uint64(i))
			if err != nil {
				return nil, err
			}
			if i >= warmUps {
				found[k].sent = append(found[k].sent, sent.Seconds()*1000)
				found[k].answered = append(found[k].answered, answered.Seconds()*1000)
			}
		}
	}
	for _, wait := range waits {
		wait()
	}
	for k, st := range stacks {
		_, now, err := st.cpu()
		if err != nil {
			return nil, err
		}
		for i, d := range now {
			found[k].spent = append(found[k].spent, float64((d-began[k][i]).Microseconds())/float64(p.Rounds))
		}
	}
	return found, nil
}

// pick submits a job: how long it took to the provider, and to the API's answer.
func pick(ctx context.Context, st *stack, c *rig.Conn, i uint64) (sent, answered time.Duration, err error) {
	// Apart, and never in step with anything periodic.
	if err := rig.Wait(ctx, 40*time.Millisecond+rand.N(60*time.Millisecond)); err != nil {
		return 0, 0, err
	}
	request := st.single(job(i, 1024, 16))
	start := time.Now()
	if err := c.Expect(ctx, http.StatusAccepted, request); err != nil {
		return 0, 0, fmt.Errorf("submit: %w", err)
	}
	answered = time.Since(start)
	select {
	case at := <-st.Provider.Arrived:
		return at.Sub(start), answered, nil
	case <-time.After(10 * time.Second):
		return 0, 0, errors.New("a job was not picked up within 10 s")
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
}

// watch leaves the processes idle and reports what that costs, beside how long
// the submits took.
func (st *stack) watch(ctx context.Context, p picks) error {
	before, err := st.snapshot(ctx)
	if err != nil {
		return err
	}
	_, spent, err := st.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := rig.Wait(ctx, idleSpan); err != nil {
		return err
	}
	span := time.Since(start).Seconds()
	_, now, err := st.cpu()
	if err != nil {
		return err
	}
	after, err := st.snapshot(ctx)
	if err != nil {
		return err
	}
	core := make([]float64, len(now))
	for i := range now {
		core[i] = 100 * (now[i] - spent[i]).Seconds() / span
	}
	did, ms, answers := after.since(before), p.sent, p.answered
	return report(fmt.Sprintf("pickup: %d submits one at a time to an idle API and worker in separate processes, appendfsync %s", len(ms), st.aof), []figure{
		atMost("submit to provider, p50", "%.2f ms", percentile(ms, 0.5), 3, "from before the request is written to its headers at the provider"),
		atMost("submit to provider, p99", "%.2f ms", percentile(ms, 0.99), 12, fmt.Sprintf("p90 %.2f, most %.2f ms", percentile(ms, 0.9), percentile(ms, 1))),
		plain("submit to 202, p50", "%.2f ms", percentile(answers, 0.5), fmt.Sprintf("p99 %.2f ms", percentile(answers, 0.99))),
		atMost("idle worker, of a core", "%.2f %%", core[2], 1, fmt.Sprintf("over %.0f s; %.1f Redis round trips a second", span, (did.counters[redisCalls]-did.api)/span)),
		plain("  idle API, of a core", "%.2f %%", core[1], fmt.Sprintf("%.1f Redis round trips a second", did.api/span)),
		plain("  idle Redis, of a core", "%.2f %%", core[0], ""),
	})
}
