// Package hooks measures the delivery of webhooks to 50 receivers on loopback,
// with a real Redis (AOF, always), and prints each figure beside its bar.
//
//   - rate: sustained deliveries a second, as a share of what signing and sending
//     alone reach in the same run (bar: 60 %, or 1,000 a second). The deliverer is
//     the worker's own, in this process, as is what it is compared with;
//   - kill: processes of the worker, and Redis, are killed by kill -9 while they
//     deliver 10,000 events; each has to arrive, under one id of its own;
//   - slow: one receiver hangs and one answers 500; the 99th percentile of the
//     others against the same without them (bar: 20 % more).
//
// It is an error that an event is lost; the other figures are reported and not
// judged.
package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/webhook"
)

// Command chooses measurements and their size.
type Command struct {
	Only       []string `arg:"" optional:"" enum:"rate,kill,slow" help:"What to measure, of ${enum}; all without it."`
	Events     int      `default:"10000" help:"Events of the kill; the rate takes three times as many."`
	CPUProfile string   `name:"cpuprofile" type:"path" placeholder:"FILE" help:"Write a profile of the rate's deliveries to this file."`
}

// Run takes each measurement with a Redis and receivers of its own.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	var errs []error
	for _, m := range []struct {
		name    string
		workers int
		run     func(*bench, context.Context) error
	}{{"rate", 0, (*bench).rate}, {"kill", 2, (*bench).kill}, {"slow", 0, (*bench).slow}} {
		if len(c.Only) == 0 || slices.Contains(c.Only, m.name) {
			errs = append(errs, c.measure(ctx, lab, m.name, m.workers, m.run))
		}
	}
	return errors.Join(errs...)
}

// bench is one measurement under way.
type bench struct {
	*Command
	stage *rig.Stage
	parts *parts
	site  *site
}

// measure starts a Redis, the workers and the receivers, and takes one measurement.
func (c *Command) measure(ctx context.Context, lab *rig.Lab, name string, workers int, run func(*bench, context.Context) error) (err error) {
	b := &bench{Command: c}
	b.stage, err = lab.Stage(ctx, rig.Config{
		Name: name, Workers: workers, Pool: "limits: {requests_per_minute: 60}",
		Worker: func(int) (string, []string) {
			return lab.Bin, []string{"SLUICE_WEBHOOKS__ALLOW_HTTP=true", "SLUICE_WEBHOOKS__ALLOW_PRIVATE=true"}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stage.Close()) }()
	if b.parts, err = newParts(ctx, b.stage); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.parts.close()) }()
	b.site = newSite()
	defer b.site.close()
	return run(b, ctx)
}

// wait waits until n events have arrived.
func (b *bench) wait(ctx context.Context, n int, most time.Duration) error {
	err := rig.Until(ctx, most, "every event has arrived", func(context.Context) (bool, error) { return b.site.count() >= n, nil })
	if err != nil {
		return fmt.Errorf("%d of %d events arrived within %s: %w", b.site.count(), n, most, err)
	}
	return nil
}

// rate is deliveries a second from a full record, and signing and sending alone.
func (b *bench) rate(ctx context.Context) error {
	k, err := b.parts.secret(ctx, "rate")
	if err != nil {
		return err
	}
	n := 3 * b.Events
	ceiling, err := b.ceiling(ctx, n, k)
	if err != nil {
		return err
	}
	b.site.reset(false)
	if _, err := b.parts.end(ctx, "rate", n, b.site.url, 0); err != nil {
		return err
	}
	if b.CPUProfile != "" {
		f, err := os.Create(b.CPUProfile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	before, err := b.spent(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	stop, err := b.parts.deliver(ctx)
	if err != nil {
		return err
	}
	err = b.wait(ctx, n, 2*time.Minute)
	rate := float64(n) / time.Since(start).Seconds()
	after, spent := b.spent(ctx)
	fmt.Printf("rate   %.0f deliveries/s of %.0f/s signed and sent alone: %.0f %% (bar 60 %%, or 1,000/s); Redis spent %.0f µs a delivery\n",
		rate, ceiling, 100*rate/ceiling, 1e6*(after-before)/float64(n))
	return errors.Join(err, spent, stop())
}

// ceiling is how many of n deliveries are signed and sent a second, and nothing more.
func (b *bench) ceiling(ctx context.Context, n int, k webhook.Secret) (float64, error) {
	sender, err := newSender()
	if err != nil {
		return 0, err
	}
	defer sender.Close()
	body, err := webhook.TestEvent("whe_bench", time.Now(), "https://sluice.example")
	if err != nil {
		return 0, err
	}
	jobs := make(chan int)
	var all sync.WaitGroup
	start := time.Now()
	for range 256 {
		all.Go(func() {
			for i := range jobs {
				sender.Send(ctx, webhook.Delivery{ID: fmt.Sprintf("evt_%d", i), URL: b.site.url(i), Body: body, Keys: []webhook.Key{k}})
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	all.Wait()
	return float64(n) / time.Since(start).Seconds(), nil
}

// spent is how many seconds of a processor Redis has used.
func (b *bench) spent(ctx context.Context) (sum float64, err error) {
	info, err := b.stage.Info(ctx, "cpu")
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
		s, err := strconv.ParseFloat(info[name], 64)
		if err != nil {
			return 0, err
		}
		sum += s
	}
	return sum, nil
}

// slow is the others' latency beside a receiver that hangs and one that fails.
func (b *bench) slow(ctx context.Context) error {
	if _, err := b.parts.secret(ctx, "slow"); err != nil {
		return err
	}
	var p99 [2]time.Duration
	for round, bad := range []bool{false, true} {
		b.site.reset(bad)
		stop, err := b.parts.deliver(ctx)
		if err != nil {
			return err
		}
		n := 3000
		_, err = b.parts.end(ctx, "slow", n, b.site.url, 50*time.Millisecond)
		if bad {
			n -= 2 * n / receivers
		}
		err = errors.Join(err, b.wait(ctx, n, time.Minute))
		p99[round] = b.site.p99()
		if err := errors.Join(err, stop()); err != nil {
			return err
		}
	}
	fmt.Printf("slow   p99 %s, beside a receiver that hangs and one that fails %s: %+.0f %% (bar +20 %%)\n",
		p99[0].Round(100*time.Microsecond), p99[1].Round(100*time.Microsecond), 100*(float64(p99[1])/float64(p99[0])-1))
	return nil
}

// kill is whether every event arrives, whatever of the processes is killed.
func (b *bench) kill(ctx context.Context) error {
	if _, err := b.parts.secret(ctx, "kill"); err != nil {
		return err
	}
	// The events are made while no worker runs, so that there is much to deliver
	// at each kill.
	s := b.stage
	if err := each(s.Workers, (*rig.Proc).Stop); err != nil {
		return err
	}
	ids, err := b.parts.end(ctx, "kill", b.Events, b.site.url, 0)
	if err != nil {
		return err
	}
	if err := each(s.Workers, (*rig.Proc).Start); err != nil {
		return err
	}
	plan := [][]*rig.Proc{{s.Workers[0]}, {s.Redis}, s.Workers, {s.Redis, s.Workers[0], s.Workers[1]}}
	kills := 0
	for i, procs := range plan {
		// What a killed worker had in hand comes back when its lease ends.
		if err := b.wait(ctx, len(ids)*(i+1)/(len(plan)+1), 2*time.Minute); err != nil {
			return err
		}
		if err := each(procs, (*rig.Proc).Kill); err != nil {
			return err
		}
		kills += len(procs)
		if err := each(procs, (*rig.Proc).Start); err != nil {
			return err
		}
		if err := s.AwaitRedis(ctx); err != nil {
			return err
		}
	}
	err = b.wait(ctx, len(ids), 3*time.Minute)
	missing, several, arrivals := b.site.check(ids)
	fmt.Printf("kill   %d events, kill -9 of %d processes, workers and Redis: %d missing, %d without one id of their own, %d arrivals\n",
		len(ids), kills, missing, several, arrivals)
	if missing+several > 0 {
		err = errors.Join(err, errors.New("an event was lost or has not one id of its own"))
	}
	return err
}

// each does the same with several processes.
func each(procs []*rig.Proc, do func(*rig.Proc) error) error {
	for _, p := range procs {
		if err := do(p); err != nil {
			return err
		}
	}
	return nil
}
