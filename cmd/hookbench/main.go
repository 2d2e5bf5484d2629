// Command hookbench measures the delivery of webhooks: a store on a real Redis
// (AOF, always), the deliverer of a worker, and receivers on loopback, all with
// the code that the program runs. It prints each figure beside its bar, and
// ends only the processes that it started.
//
//   - rate: sustained deliveries a second to 50 receivers, as a share of what
//     signing and sending alone reach in the same run (bar: 60 %);
//   - kill: Redis is killed and the sender cut off again and again while 10,000
//     events are delivered; each has to arrive, under one id of its own;
//   - slow: one receiver hangs and one answers 500; the 99th percentile of the
//     others against the same without them (bar: 20 % more).
//
// The exit code is 1 when an event is lost or something could not be measured;
// the other figures are reported and not judged.
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
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/gather"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/webhook"
)

const receivers = 50

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hookbench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	events := flag.Int("events", 10_000, "events of the rate and the kill")
	flag.Parse()
	dir, err := os.MkdirTemp("", "hookbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, events: *events}
	if err := b.startRedis(ctx); err != nil {
		return err
	}
	defer b.killRedis()
	b.rdb = b.client()
	defer b.rdb.Close()
	b.store = store.New(store.Config{Redis: b.rdb, Depth: map[string]int{"bench": 1}})
	if err := b.store.SetPaused(ctx, "bench", true); err != nil {
		return err
	}
	b.site = newSite()
	defer b.site.close()
	// What slow leaves to be tried again would be taken for events of the others.
	return errors.Join(b.rate(ctx), b.kill(ctx), b.slow(ctx))
}

type bench struct {
	dir    string
	events int
	redis  *exec.Cmd
	rdb    *redis.Client
	store  *store.Store
	site   *site
}

func (b *bench) client() *redis.Client {
	return redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(b.dir, "s"), PoolSize: 64})
}

func (b *bench) startRedis(ctx context.Context) error {
	b.redis = exec.Command("redis-server", "--port", "0", "--unixsocket", filepath.Join(b.dir, "s"), "--dir", b.dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning")
	if err := b.redis.Start(); err != nil {
		return err
	}
	c := b.client()
	defer c.Close()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c.Ping(ctx).Err() == nil {
			return nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errors.New("redis-server did not come up")
		}
	}
}

func (b *bench) killRedis() {
	_ = b.redis.Process.Kill()
	_ = b.redis.Wait()
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
	})
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
func (b *bench) rate(ctx context.Context) error {
	k, err := b.secret(ctx, "rate")
	if err != nil {
		return err
	}
	sender, err := newSender()
	if err != nil {
		return err
	}
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
	for i := range b.events {
		jobs <- i
	}
	close(jobs)
	all.Wait()
	ceiling := float64(b.events) / time.Since(start).Seconds()
	sender.Close()

	b.site.reset(false)
	ids, err := b.end(ctx, "rate", b.events, 0)
	if err != nil {
		return err
	}
	start = time.Now()
	stop, err := b.deliver(ctx)
	if err != nil {
		return err
	}
	err = b.wait(ctx, len(ids), 2*time.Minute)
	rate := float64(len(ids)) / time.Since(start).Seconds()
	fmt.Printf("rate   %.0f deliveries/s of %.0f/s signed and sent alone: %.0f %% (bar 60 %%)\n", rate, ceiling, 100*rate/ceiling)
	return errors.Join(err, stop())
}

// slow is the others' latency beside a receiver that hangs and one that fails.
func (b *bench) slow(ctx context.Context) error {
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

// kill is whether every event arrives.
func (b *bench) kill(ctx context.Context) error {
	if _, err := b.secret(ctx, "kill"); err != nil {
		return err
	}
	b.site.reset(false)
	ids, err := b.end(ctx, "kill", b.events, 0)
	if err != nil {
		return err
	}
	kills := 0
	for ; kills < 3; kills++ {
		run, cut := context.WithCancel(ctx)
		stop, err := b.deliver(run)
		if err != nil {
			cut()
			return err
		}
		err = b.wait(ctx, min(len(ids), b.site.count()+len(ids)/5), time.Minute)
		b.killRedis() // with deliveries in hand: their ends are not recorded
		cut()
		if err := errors.Join(err, b.startRedis(ctx), stop()); err != nil {
			return err
		}
	}
	stop, err := b.deliver(ctx)
	if err != nil {
		return err
	}
	waited := b.wait(ctx, len(ids), 3*time.Minute)
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
	fmt.Printf("kill   %d events, %d kills of Redis and sender: %d missing, %d without one id of their own, %d arrivals\n", len(ids), kills, missing, several, arrivals)
	if missing+several > 0 {
		err = errors.New("an event was lost or has not one id of its own")
	}
	return errors.Join(err, waited, stop())
}
