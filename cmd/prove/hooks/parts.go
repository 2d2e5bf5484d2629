package hooks

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/dispatch"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/webhook"
)

// parts are a second Sluice in this process, put together from its packages as
// the program does: all of that is in this file.
type parts struct {
	redis *redis.Options
	rdb   *redis.Client
	store *store.Store
}

func newParts(ctx context.Context, s *rig.Stage) (*parts, error) {
	p := &parts{redis: &redis.Options{Network: s.RDB.Options().Network, Addr: s.RDB.Options().Addr, PoolSize: 64}}
	p.rdb = redis.NewClient(p.redis)
	// No worker knows this pool: its jobs end by being canceled.
	p.store = store.New(store.Config{Redis: p.rdb, Depth: map[string]int{"bench": 1}})
	if err := p.store.SetPaused(ctx, "bench", true); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *parts) close() error { return p.rdb.Close() }

// secret makes a tenant's signing secret.
func (p *parts) secret(ctx context.Context, tenant string) (webhook.Secret, error) {
	k := webhook.NewSecret()
	_, err := p.store.RotateKeys(ctx, tenant, "", tasks.SigningKeys{Secret: k.Reveal()})
	return k, err
}

// end makes n jobs that end at once, each told to the address that url names,
// with a pause after each 50 of them.
func (p *parts) end(ctx context.Context, tenant string, n int, url func(int) string, pause time.Duration) ([]string, error) {
	var ids []string
	for from := 0; from < n; from += 50 {
		var subs []tasks.Submission
		for i := from; i < min(n, from+50); i++ {
			subs = append(subs, tasks.Submission{Job: tasks.Job{
				ID: store.NewID("job"), Tenant: tenant, Pool: "bench", Model: "m", Priority: tasks.Normal, WebhookURL: url(i),
				Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
			}})
		}
		if _, _, err := p.store.Create(ctx, subs...); err != nil {
			return ids, err
		}
		for i := range subs {
			if _, err := p.store.Cancel(ctx, tenant, subs[i].Job.ID); err != nil {
				return ids, err
			}
			ids = append(ids, subs[i].Job.ID)
		}
		if err := rig.Wait(ctx, pause); err != nil {
			return ids, err
		}
	}
	return ids, nil
}

func newSender() (*webhook.Sender, error) {
	guard, err := webhook.NewGuard(webhook.GuardConfig{AllowHTTP: true, AllowPrivate: true})
	if err != nil {
		return nil, err
	}
	return webhook.NewSender(webhook.SenderConfig{Guard: guard, MaxPerHost: 64})
}

// deliver runs a deliverer until the returned function is called.
func (p *parts) deliver(ctx context.Context) (stop func() error, err error) {
	sender, err := newSender()
	if err != nil {
		return nil, err
	}
	var d *worker.Deliverer
	feeder := queue.NewFeeder(queue.Config{Redis: p.rdb, Backlog: p.store, Kick: func(context.Context, string, int) { d.Kick() }})
	own := redis.NewClient(p.redis)
	d, err = worker.NewDeliverer(worker.DelivererConfig{
		Redis: own, Sender: sender, Hand: feeder.HandDeliveries, Base: func() string { return "https://sluice.example" }, Log: slog.New(slog.DiscardHandler),
		Record: dispatch.NewDeliveries(p.store, feeder, nil),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 2)
	go func() { done <- d.Run(ctx) }()
	notices := store.NewNotices(p.rdb, "", p.store, func(c store.Control) {
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
