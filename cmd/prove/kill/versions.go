package kill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Versions proves that two neighbouring releases work beside each other on one Redis
// and that either may be rolled back.
type Versions struct {
	Former  string        `type:"existingfile" placeholder:"FILE" help:"The program of the release before; without it, it is built from its commit in docs/releases.md."`
	Rate    float64       `default:"30" help:"Calls a second that the provider allows."`
	Span    time.Duration `default:"10s" help:"How long each constellation lasts."`
	Timeout time.Duration `default:"4m" help:"The proof fails when it takes longer."`
}

const paceLeast = 0.95 // of what the provider allows

// releases are the rows of docs/releases.md, oldest first.
var releases = regexp.MustCompile("(?m)^\\| \\d+\\.\\d+\\.\\d+ \\| `([0-9a-f]{40})` \\|$")

// Run proves and prints what it counted. It is an error that a guarantee was broken.
func (c *Versions) Run(ctx context.Context, lab *rig.Lab) (err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.Former == "" {
		text, err := os.ReadFile(filepath.Join("docs", "releases.md"))
		if err != nil {
			return err
		}
		rows := releases.FindAllSubmatch(text, -1)
		if len(rows) == 0 {
			return errors.New("docs/releases.md names no release")
		}
		if c.Former, err = rig.CompileFormer(ctx, lab.Dir, string(rows[len(rows)-1][1])); err != nil {
			return err
		}
	}
	asked := fake.Config{MeanLatency: 150 * time.Millisecond, LatencySigma: 0.5, MeanOutputTokens: 24, OutputSigma: 0.5}
	provider, err := rig.StartProvider(asked)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()
	e := &evidence{plan: Command{Seed: uint64(time.Now().UnixNano())}}
	if err := c.prove(ctx, lab, provider, e); err != nil {
		return err
	}
	e.calls = provider.Calls(0)
	if e.want, err = answers(ctx, asked, e.jobs); err != nil {
		return err
	}
	r := e.judge()
	for _, p := range e.paces {
		r.row(p.share >= paceLeast, "share of the pace with "+p.name, fmt.Sprintf(">= %.2f", paceLeast), "%.3f", p.share)
	}
	r.print(os.Stdout)
	if len(r.broken) > 0 {
		return errors.New("a guarantee was broken")
	}
	return nil
}

// pace is the share of the allowed calls that were made in a constellation.
type pace struct {
	name  string
	share float64
}

// constellation is which processes run for a time.
type constellation struct {
	name                                   string
	oldAPI, newAPI, oldWorkers, newWorkers bool
}

var constellations = []constellation{
	{"the old release alone", true, false, true, false},
	{"both beside each other", true, true, true, true},
	{"the new API and old workers", false, true, true, false},
	{"the old API and new workers", true, false, false, true},
	{"the new release alone", false, true, false, true},
	{"both again, to roll back", true, true, true, true},
	{"the old release, rolled back to", true, false, true, false},
}

func (c *Versions) prove(ctx context.Context, lab *rig.Lab, provider *rig.Provider, e *evidence) (err error) {
	config := rig.Config{
		Name: "new", APIs: 1, Workers: 2, Provider: provider, OneKey: true,
		Pool: fmt.Sprintf("limits: {requests_per_minute: %.0f, request_burst: 10, concurrency: 64}, timeout: 30s", c.Rate*60),
	}
	now, err := lab.Stage(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, now.Close()) }()
	config.Name, config.Former, config.RedisURL = "old", c.Former, "unix://"+now.RDB.Options().Addr
	old, err := lab.Stage(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()

	client := (&rig.Stage{Addrs: append(slices.Clone(now.Addrs), old.Addrs...), Token: now.Token}).Client()
	defer client.Close()
	begin := time.Now()
	stop := make(chan struct{})
	var load errgroup.Group
	load.Go(func() error { return e.submitUntil(ctx, client, stop, c.Rate*1.1) }) // with the batches, a third more than is done
	for _, k := range constellations {
		if err = c.hold(ctx, k, old, now, provider, e, begin); err != nil {
			break
		}
	}
	close(stop)
	if err = errors.Join(err, load.Wait()); err != nil {
		return err
	}
	if err := e.await(ctx, client, os.Stdout, begin); err != nil {
		return err
	}
	e.took = time.Since(begin)
	if err := rig.Wait(ctx, settle); err != nil {
		return err
	}
	e.retries = client.Retries.Load()
	return e.read(ctx, client)
}

// hold brings a constellation about and measures the pace in it, the change included.
func (c *Versions) hold(ctx context.Context, k constellation, old, now *rig.Stage, provider *rig.Provider, e *evidence, begin time.Time) error {
	from := time.Now()
	run := func(p *rig.Proc, want bool) error {
		if want == p.Runs() {
			return nil
		}
		if !want {
			return p.Stop()
		}
		return errors.Join(p.Start(), p.AwaitReady(ctx))
	}
	// What comes is started before what goes is stopped.
	for _, want := range []bool{true, false} {
		for _, it := range []struct {
			procs []*rig.Proc
			want  bool
		}{{old.APIs, k.oldAPI}, {now.APIs, k.newAPI}, {old.Workers, k.oldWorkers}, {now.Workers, k.newWorkers}} {
			for _, p := range it.procs {
				if it.want != want {
					continue
				}
				if err := run(p, want); err != nil {
					return err
				}
			}
		}
	}
	if len(e.paces) == 0 {
		if err := rig.Wait(ctx, 3*time.Second); err != nil { // until jobs wait, and the burst is used up
			return err
		}
		from = time.Now()
	}
	if err := rig.Wait(ctx, c.Span); err != nil {
		return err
	}
	n, end := 0, time.Now()
	for _, call := range provider.Calls(0) {
		if call.Accepted && call.At.After(from) && call.At.Before(end.Add(-time.Second)) { // those of the last second have not all ended
			n++
		}
	}
	share := float64(n) / (c.Rate * (end.Sub(from) - time.Second).Seconds())
	e.paces = append(e.paces, pace{k.name, share})
	fmt.Printf("%6.1f s  %s: %.1f %% of the pace\n", end.Sub(begin).Seconds(), k.name, 100*share)
	return nil
}
