package kill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Nodes proves that no accepted job, cancel or webhook is lost where several servers
// of Redis take each other's place, with min-replicas-to-write 1.
type Nodes struct {
	Only      []string      `arg:"" optional:"" enum:"sentinel,cluster,lag" help:"What to prove, of ${enum}; all without it."`
	Failovers int           `default:"6" help:"How often a primary is killed or stopped, each of Sentinel and Cluster."`
	Rate      float64       `default:"25" help:"Jobs a second that are submitted."`
	Timeout   time.Duration `default:"10m" help:"The proof fails when it takes longer."`
}

// Run proves and prints what it counted. It is an error that a guarantee was broken.
func (c *Nodes) Run(ctx context.Context, lab *rig.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var errs []error
	for _, p := range []nodesProof{
		{name: "sentinel", failovers: c.Failovers},
		{name: "cluster", failovers: c.Failovers, nodes: rig.NodesConfig{Cluster: true}},
		{name: "lag", failovers: 1, nodes: rig.NodesConfig{Delay: 300 * time.Millisecond}},
	} {
		if len(c.Only) > 0 && !slices.Contains(c.Only, p.name) {
			continue
		}
		p.rate = c.Rate
		fmt.Printf("\n%s\n", p.name)
		if err := p.run(ctx, lab); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// nodesProof is a proof with servers of one kind.
type nodesProof struct {
	name      string
	failovers int
	rate      float64
	nodes     rig.NodesConfig
}

func (p nodesProof) run(ctx context.Context, lab *rig.Lab) (err error) {
	p.nodes.Dir = fmt.Sprintf("%s/%s-redis", lab.Dir, p.name)
	p.nodes.Args = []string{"--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"}
	n, err := rig.StartNodes(ctx, p.nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	asked := fake.Config{MeanLatency: 150 * time.Millisecond, LatencySigma: 0.5, MeanOutputTokens: 24, OutputSigma: 0.5}
	s, err := lab.Stage(ctx, rig.Config{
		Name: p.name, APIs: apis, Workers: workers, Fake: asked, RedisURL: n.URL,
		Pool:     fmt.Sprintf("limits: {requests_per_minute: %.0f, request_burst: 10, concurrency: 64}, timeout: 30s", p.rate*2.4*60),
		Settings: "webhooks: {allow_http: true, allow_private: true}",
	})
	if err != nil {
		return err
	}
	e := &evidence{inbox: newInbox(), plan: Command{RedisKills: p.failovers, Seed: uint64(time.Now().UnixNano())}}
	defer e.inbox.server.Close()
	err = p.prove(ctx, s, n, e)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	e.calls = s.Provider.Calls(0)
	if e.want, err = answers(ctx, asked, e.jobs); err != nil {
		return err
	}
	r := e.judge()
	r.print(os.Stdout)
	if len(r.broken) > 0 {
		return errors.New("a guarantee was broken")
	}
	return nil
}

// prove does what an operator and callers do, then has primaries fail under load.
func (p nodesProof) prove(ctx context.Context, s *rig.Stage, n *rig.Nodes, e *evidence) error {
	c := s.Client()
	defer c.Close()
	c.Webhook = e.inbox.server.URL
	if p.nodes.Delay == 0 {
		if err := e.flow(ctx, s, c); err != nil {
			return err
		}
	}
	begin := time.Now()
	stop := make(chan struct{})
	var load errgroup.Group
	load.Go(func() error { return e.submitUntil(ctx, c, stop, p.rate) })
	err := e.failovers(ctx, n, p.failovers, begin)
	close(stop)
	if err = errors.Join(err, load.Wait()); err != nil {
		return err
	}
	if err := e.await(ctx, c, os.Stdout, begin); err != nil {
		return err
	}
	e.took = time.Since(begin)
	// Whatever a process that lost its jobs could still write would come within a
	// lease and a sweep.
	if err := rig.Wait(ctx, settle); err != nil {
		return err
	}
	e.retries = c.Retries.Load()
	if err := e.read(ctx, c); err != nil {
		return err
	}
	// One that does not come is judged.
	_ = rig.Until(ctx, time.Minute, "every end was told", func(context.Context) (bool, error) {
		return !slices.ContainsFunc(e.events(), func(ev event) bool { return !e.inbox.has(ev) }), nil
	})
	return nil
}

// loadMost is how many jobs a proof submits at most.
const loadMost = 20000

// submitUntil submits jobs at a rate: of 200, 50 are a batch, and every tenth of the
// others is for later and canceled.
func (e *evidence) submitUntil(ctx context.Context, c *rig.Client, stop <-chan struct{}, rate float64) error {
	run := fmt.Sprintf("%016x", e.plan.Seed)
	before := len(e.jobs)
	e.jobs = append(make([]accepted, 0, loadMost), e.jobs...)
	var (
		g  errgroup.Group
		mu sync.Mutex
	)
	g.SetLimit(8 * callers) // they wait while Redis is away
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), g.Wait())
		case <-stop:
			return g.Wait()
		case <-tick.C:
		}
		from := len(e.jobs)
		if from+batchSize > loadMost {
			return errors.Join(errors.New("too many jobs were submitted"), g.Wait())
		}
		size := 1
		if n%150 == 10 {
			size = batchSize
		}
		e.jobs = e.jobs[:from+size]
		lines := e.jobs[from:]
		for i := range lines {
			lines[i].prompt = fmt.Sprintf("proof %s job %d", run, from-before+i)
		}
		g.Go(func() (err error) {
			key := fmt.Sprintf("%s-%d", run, from)
			switch {
			case size > 1:
				id, err := submitBatch(ctx, c, key, lines)
				mu.Lock()
				defer mu.Unlock()
				e.batches = append(e.batches, rig.Batch{ID: id})
				return err
			case n%10 == 0 && c.Webhook != "":
				return lines[0].cancelLater(ctx, c, key)
			}
			lines[0].hook = c.Webhook != ""
			lines[0].id, err = c.Submit(ctx, key, lines[0].prompt, maxTokens)
			return err
		})
	}
}

// failovers has a primary die again and again, or stand still for longer than it is
// waited for, and waits each time until all servers are in step again.
func (e *evidence) failovers(ctx context.Context, n *rig.Nodes, times int, begin time.Time) error {
	if err := rig.Wait(ctx, 2*time.Second); err != nil {
		return err
	}
	for i := range times {
		key := []string{"sluice:{s}:x", "asynq:{" + rig.Pool + "}:x"}[i%2] // the records' slot, and Asynq's and the gate's
		p := n.Primary(ctx, key)
		if p == nil {
			return errors.New("nobody knows the primary")
		}
		k := kill{name: p.Name, redis: true, at: time.Now(), freeze: i%3 == 2}
		end, again := p.Kill, p.Start
		if k.freeze {
			end = func() error { return p.Signal(syscall.SIGSTOP) }
			again = func() error { return p.Signal(syscall.SIGCONT) }
		}
		if err := end(); err != nil {
			return err
		}
		k.gone = time.Now()
		err := n.AwaitOther(ctx, p, key)
		k.back = time.Now()
		if err == nil {
			err = rig.Wait(ctx, time.Second)
		}
		if err = errors.Join(err, again()); err != nil {
			return err
		}
		// Callers found the new primary when jobs are accepted again.
		e.kills = append(e.kills, k)
		fmt.Printf("%6.1f s  %s %s, another took its place after %.1f s\n", k.at.Sub(begin).Seconds(), k.verb(), k.name, k.back.Sub(k.at).Seconds())
		if err := n.AwaitInStep(ctx); err != nil {
			return err
		}
		if err := rig.Wait(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	return nil
}
