package kill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Poison proves that a job whose workers die at each of its calls has an end, and
// that those beside it lose nothing but time.
type Poison struct {
	Innocents int           `default:"300" help:"Jobs beside it."`
	Rate      float64       `default:"10" help:"Innocent jobs a second that are submitted."`
	Timeout   time.Duration `default:"4m" help:"The proof fails when it takes longer."`
}

const poison = "what the worker dies of"

// Run proves. It is an error that a guarantee was broken.
func (c *Poison) Run(ctx context.Context, lab *rig.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	s, err := lab.Stage(ctx, rig.Config{
		Name: "poison", APIs: 1, Workers: 2, Fake: fake.Config{MeanLatency: 500 * time.Millisecond, MeanOutputTokens: 8},
		Pool: "limits: {requests_per_minute: 6000, request_burst: 10, concurrency: 64}",
	})
	if err != nil {
		return err
	}
	return errors.Join(c.prove(ctx, s), s.Close())
}

// met is what the provider has seen of the poison.
type met struct {
	mu    sync.Mutex
	calls int
	err   error
	kills sync.WaitGroup
}

// strike kills the worker that makes the call, and starts another in its place.
func (m *met) strike(s *rig.Stage, key string, body []byte) bool {
	if !bytes.Contains(body, []byte(poison)) {
		return false
	}
	i := slices.IndexFunc(s.Workers, func(p *rig.Proc) bool { return key == rig.Key(slices.Index(s.Workers, p)) })
	m.mu.Lock()
	m.calls++
	fmt.Printf("call %d of the poison: %s dies\n", m.calls, s.Workers[i].Name)
	m.mu.Unlock()
	m.kills.Go(func() {
		if err := errors.Join(s.Workers[i].Kill(), s.Workers[i].Start()); err != nil {
			m.mu.Lock()
			m.err = err
			m.mu.Unlock()
		}
	})
	return true
}

func (c *Poison) prove(ctx context.Context, s *rig.Stage) error {
	m := &met{}
	s.Provider.Meet = func(key string, body []byte) bool { return m.strike(s, key, body) }
	defer m.kills.Wait()
	client := s.Client()
	defer client.Close()
	bad, err := client.Submit(ctx, "", poison, maxTokens)
	if err != nil {
		return err
	}
	ids := make([]string, c.Innocents)
	for i := range ids {
		if ids[i], err = client.Submit(ctx, "", fmt.Sprintf("an innocent question, number %d", i), maxTokens); err != nil {
			return err
		}
		if err := rig.Wait(ctx, time.Duration(float64(time.Second)/c.Rate)); err != nil {
			return err
		}
	}
	ends := make([]rig.Job, 1+len(ids))
	var g errgroup.Group
	g.SetLimit(callers)
	for i, id := range append([]string{bad}, ids...) {
		g.Go(func() error {
			return rig.Until(ctx, c.Timeout, "job "+id+" ends", func(ctx context.Context) (bool, error) {
				j, err := client.Job(ctx, id, 5*time.Second)
				ends[i] = j
				return err == nil && j.Final(), err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return m.judge(ends[0], ends[1:])
}

func (m *met) judge(bad rig.Job, innocents []rig.Job) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	succeeded, again := 0, 0
	for _, j := range innocents {
		if j.Status == string(tasks.StatusSucceeded) {
			succeeded++
		}
		again += len(j.Upstream.Attempts) - 1
	}
	if bad.Error == nil {
		return fmt.Errorf("a guarantee was broken: the poison is %s", bad.Status)
	}
	fmt.Printf("the poison: %s, %s, %d calls\n%d of %d innocent jobs succeeded; %d of their calls were lost with a worker\n",
		bad.Status, bad.Error.Code, m.calls, succeeded, len(innocents), again)
	if m.err != nil {
		return m.err
	}
	if bad.Status != string(tasks.StatusFailed) || bad.Error.Code != string(tasks.WorkerLostTooOften) || m.calls != tasks.MostLosses || succeeded != len(innocents) {
		return fmt.Errorf("a guarantee was broken: want the poison failed with %s after %d calls, and all others succeeded", tasks.WorkerLostTooOften, tasks.MostLosses)
	}
	return nil
}
