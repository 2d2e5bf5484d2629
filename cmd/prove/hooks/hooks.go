// Command hookbench measures the delivery of webhooks: a real Redis (AOF,
// always), and 50 receivers on loopback. It prints each figure beside its bar,
// and ends only the processes that it started.
//
//   - rate: sustained deliveries a second, as a share of what signing and sending
//     alone reach in the same run (bar: 60 %, or 1,000 a second). The deliverer is
//     the worker's own, in this process, as is what it is compared with;
//   - kill: processes of the worker, and Redis, are killed by kill -9 while they
//     deliver 10,000 events; each has to arrive, under one id of its own;
//   - slow: one receiver hangs and one answers 500; the 99th percentile of the
//     others against the same without them (bar: 20 % more).
//
// The exit code is 1 when an event is lost or something could not be measured;
// the other figures are reported and not judged.
//
//	hookbench [flags] [rate | kill | slow]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/gather"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/webhook"
)

const receivers = 50

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hookbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var b bench
	flag.IntVar(&b.events, "events", 10_000, "events of the kill; the rate takes three times as many")
	flag.StringVar(&b.profile, "cpuprofile", "", "write a profile of the rate's deliveries to this file")
	flag.Parse()
	all := []struct {
		name string
		run  func(*bench, context.Context) error
	}{{"rate", (*bench).rate}, {"kill", (*bench).kill}, {"slow", (*bench).slow}}
	var err error
	if b.dir, err = os.MkdirTemp("", "hookbench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	var errs []error
	for _, m := range all {
		if flag.NArg() == 0 || slices.Contains(flag.Args(), m.name) {
			errs = append(errs, m.run(&b, ctx))
		}
	}
	return errors.Join(errs...)
}

// bench is one run. Each measurement has a Redis and receivers of its own.
type bench struct {
	dir     string
	events  int
	profile string

	stage *rig.Stage
	rdb   *redis.Client
	store *store.Store
	site  *site
}

// open starts a Redis, that many workers, and the receivers.
func (b *bench) open(ctx context.Context, name string, workers int) (end func() error, err error) {
	c := rig.Config{
		Dir: filepath.Join(b.dir, name), Workers: workers, Pool: "limits: {requests_per_minute: 60}",
	}
	if workers > 0 {
		if c.Bin, err = rig.Build(ctx, b.dir); err != nil {
			return nil, err
		}
		c.Worker = func(int) (string, []string) {
			return c.Bin, []string{"SLUICE_WEBHOOKS__ALLOW_HTTP=true", "SLUICE_WEBHOOKS__ALLOW_PRIVATE=true"}
		}
	}
	if b.stage, err = rig.Open(ctx, c); err != nil {
		return nil, err
	}
	b.rdb = b.client()
	// No worker knows this pool: its jobs end by being canceled.
	b.store = store.New(store.Config{Redis: b.rdb, Depth: map[string]int{"bench": 1}})
	b.site = newSite()
	end = func() error {
		b.site.close()
		return errors.Join(b.rdb.Close(), b.stage.Close())
	}
	if err := b.store.SetPaused(ctx, "bench", true); err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

func (b *bench) client() *redis.Client {
	return redis.NewClient(&redis.Options{Network: "unix", Addr: b.stage.Socket(), PoolSize: 64})
}

// site is the receivers.
type site struct {
	servers []*httptest.Server
	stop    chan struct{}
	mu      sync.Mutex
	seen    map[string]map[string]int // object -> webhook-id -> arrivals
	n       int
	took    []time.Duration // from the event to its arrival
	bad     bool            // receiver 0 hangs, receiver 1 answers 500
}

func newSite() *site {
	s := &site{stop: make(chan struct{}), seen: map[string]map[string]int{}}
	for i := range receivers {
		s.servers = append(s.servers, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.take(w, r, i) })))
	}
	return s
}

func (s *site) take(w http.ResponseWriter, r *http.Request, i int) {
	body, _ := io.ReadAll(r.Body)
	arrived := time.Now()
	s.mu.Lock()
	bad := s.bad
	s.mu.Unlock()
	switch {
	case bad && i == 0:
		select {
		case <-r.Context().Done():
		case <-s.stop:
		}
		return
	case bad && i == 1:
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	var e struct {
		Timestamp time.Time
		Data      struct{ ID string }
	}
	if json.Unmarshal(body, &e) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.seen[e.Data.ID]
	if ids == nil {
		ids = map[string]int{}
		s.seen[e.Data.ID] = ids
		s.n++
		s.took = append(s.took, arrived.Sub(e.Timestamp))
	}
	ids[r.Header.Get(webhook.HeaderID)]++
}

func (s *site) reset(bad bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.n, s.took, s.bad = map[string]map[string]int{}, 0, nil, bad
}

func (s *site) count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.n }

func (s *site) p99() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) == 0 {
		return 0
	}
	slices.Sort(s.took)
	return s.took[len(s.took)*99/100]
}

func (s *site) close() {
	close(s.stop)
	for _, srv := range s.servers {
		srv.Close()
	}
}

func newSender() (*webhook.Sender, error) {
	guard, err := webhook.NewGuard(webhook.GuardConfig{AllowHTTP: true, AllowPrivate: true})
	if err != nil {
		return nil, err
	}
	return webhook.NewSender(webhook.SenderConfig{Guard: guard, MaxPerHost: 64})
}

// record gathers settles as the program does.
type record struct {
	*store.Store
	group *gather.Group[tasks.Settled, struct{}]
}

// SettleDelivery records how an attempt ended.
func (r record) SettleDelivery(ctx context.Context, e tasks.Settled) error {
	_, err := r.group.Do(ctx, e)
	return err
}

// deliver runs a deliverer until the returned function is called.
func (b *bench) deliver(ctx context.Context) (stop func() error, err error) {
	sender, err := newSender()
	if err != nil {
		return nil, err
	}
	var d *worker.Deliverer
	feeder := queue.NewFeeder(queue.Config{Redis: b.rdb, Backlog: b.store, Kick: func(context.Context, string, int) { d.Kick() }})
	own := b.client()
	d, err = worker.NewDeliverer(worker.DelivererConfig{
		Redis: own, Sender: sender, Hand: feeder.HandDeliveries, Base: func() string { return "https://sluice.example" }, Log: slog.New(slog.DiscardHandler),
		Record: record{b.store, gather.New(64, 2, func(ctx context.Context, l []tasks.Settled) ([]struct{}, error) {
			next, err := b.store.SettleDeliveries(ctx, l)
			if err != nil {
				return nil, err
			}
			return make([]struct{}, len(l)), feeder.HandDeliveries(ctx, next)
		})},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	notices := store.NewNotices(b.rdb, func(c store.Control) {
		if c.Verb == "deliver" {
			d.Wake()
		}
	}, nil)
	go func() { done <- notices.Run(ctx) }()
	return func() error {
		cancel()
		err := errors.Join(<-done, <-done)
		sender.Close()
		return errors.Join(err, own.Close())
	}, nil
}

// end makes n jobs that end at once, each told to one of the receivers.
func (b *bench) end(ctx context.Context, tenant string, n int, pace time.Duration) ([]string, error) {
	var ids []string
	for from := 0; from < n; from += 50 {
		var subs []tasks.Submission
		for i := from; i < min(n, from+50); i++ {
			subs = append(subs, tasks.Submission{Job: tasks.Job{
				ID: store.NewID("job"), Tenant: tenant, Pool: "bench", Model: "m", Priority: tasks.Normal, WebhookURL: b.site.servers[i%receivers].URL,
				Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
			}})
		}
		if _, _, err := b.store.Create(ctx, subs...); err != nil {
			return ids, err
		}
		for i := range subs {
			if _, err := b.store.Cancel(ctx, tenant, subs[i].Job.ID); err != nil {
				return ids, err
			}
			ids = append(ids, subs[i].Job.ID)
		}
		if pace > 0 {
			time.Sleep(pace)
		}
	}
	return ids, nil
}

func (b *bench) secret(ctx context.Context, tenant string) (webhook.Secret, error) {
	k := webhook.NewSecret()
	return k, b.store.RotateKeys(ctx, tenant, "", tasks.SigningKeys{Secret: k.Reveal()})
}

func (b *bench) wait(ctx context.Context, n int, most time.Duration) error {
	for deadline := time.Now().Add(most); b.site.count() < n; time.Sleep(2 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%d of %d events arrived within %s", b.site.count(), n, most)
		}
	}
	return nil
}

// rate is deliveries a second from a full record, and signing and sending alone.
func (b *bench) rate(ctx context.Context) (err error) {
	end, err := b.open(ctx, "rate", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	k, err := b.secret(ctx, "rate")
	if err != nil {
		return err
	}
	sender, err := newSender()
	if err != nil {
		return err
	}
	defer sender.Close()
	n := 3 * b.events
	body, err := webhook.TestEvent("whe_bench", time.Now(), "https://sluice.example")
	if err != nil {
		return err
	}
	jobs := make(chan int)
	var all sync.WaitGroup
	start := time.Now()
	for range 256 {
		all.Go(func() {
			for i := range jobs {
				sender.Send(ctx, webhook.Delivery{ID: fmt.Sprintf("evt_%d", i), URL: b.site.servers[i%receivers].URL, Body: body, Keys: []webhook.Key{k}})
			}
		})
	}
	for i := range n {
		jobs <- i
	}
	close(jobs)
	all.Wait()
	ceiling := float64(n) / time.Since(start).Seconds()

	b.site.reset(false)
	if _, err := b.end(ctx, "rate", n, 0); err != nil {
		return err
	}
	if b.profile != "" {
		f, err := os.Create(b.profile)
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
	start = time.Now()
	stop, err := b.deliver(ctx)
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

// spent is how many seconds of a processor Redis has used.
func (b *bench) spent(ctx context.Context) (float64, error) {
	info, err := b.rdb.Info(ctx, "cpu").Result()
	if err != nil {
		return 0, err
	}
	var sum float64
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			s, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			sum += s
		}
	}
	return sum, nil
}

// slow is the others' latency beside a receiver that hangs and one that fails.
func (b *bench) slow(ctx context.Context) (err error) {
	end, err := b.open(ctx, "slow", 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if _, err := b.secret(ctx, "slow"); err != nil {
		return err
	}
	var p99 [2]time.Duration
	for round, bad := range []bool{false, true} {
		b.site.reset(bad)
		stop, err := b.deliver(ctx)
		if err != nil {
			return err
		}
		n := 3000
		_, err = b.end(ctx, "slow", n, 50*time.Millisecond)
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
func (b *bench) kill(ctx context.Context) (err error) {
	end, err := b.open(ctx, "kill", 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if _, err := b.secret(ctx, "kill"); err != nil {
		return err
	}
	// The events are made while no worker runs, so that there is much to deliver
	// at each kill.
	s := b.stage
	for _, w := range s.Workers {
		if err := w.Stop(); err != nil {
			return err
		}
	}
	ids, err := b.end(ctx, "kill", b.events, 0)
	if err != nil {
		return err
	}
	for _, w := range s.Workers {
		if err := w.Start(); err != nil {
			return err
		}
	}
	plan := [][]*rig.Proc{{s.Workers[0]}, {s.Redis}, s.Workers, {s.Redis, s.Workers[0], s.Workers[1]}}
	kills := 0
	for i, procs := range plan {
		// What a killed worker had in hand comes back when its lease ends.
		if err := b.wait(ctx, len(ids)*(i+1)/(len(plan)+1), 2*time.Minute); err != nil {
			return err
		}
		for _, p := range procs {
			if err := p.Kill(); err != nil {
				return err
			}
			kills++
		}
		for _, p := range procs {
			if err := p.Start(); err != nil {
				return err
			}
		}
		if err := s.AwaitRedis(ctx); err != nil {
			return err
		}
	}
	err = b.wait(ctx, len(ids), 3*time.Minute)
	missing, several, arrivals, known := 0, 0, 0, map[string]bool{}
	b.site.mu.Lock()
	for _, id := range ids {
		got := b.site.seen[id]
		if len(got) == 0 {
			missing++
		}
		if len(got) > 1 {
			several++
		}
		for event, n := range got {
			arrivals += n
			if known[event] {
				several++
			}
			known[event] = true
		}
	}
	b.site.mu.Unlock()
	fmt.Printf("kill   %d events, kill -9 of %d processes, workers and Redis: %d missing, %d without one id of their own, %d arrivals\n",
		len(ids), kills, missing, several, arrivals)
	if missing+several > 0 {
		err = errors.Join(err, errors.New("an event was lost or has not one id of its own"))
	}
	return err
}
