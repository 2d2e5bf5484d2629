package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/trace"
	"github.com/sluicehq/sluice/worker/webhook"
)

// Deliveries is what a Deliverer asks of the record.
type Deliveries interface {
	// SweepDeliveries hands out what is due.
	SweepDeliveries(ctx context.Context) (tasks.SweptDeliveries, error)
	// OpenDeliveries takes deliveries and reads what attempts need; void tickets are left out.
	OpenDeliveries(ctx context.Context, list []tasks.DeliveryTicket) ([]tasks.Sending, error)
	// RenewDeliveries says that attempts are still under way; unsaid for 10 s, others make them.
	RenewDeliveries(ctx context.Context, list []tasks.DeliveryTicket) error
	// SettleDelivery records how an attempt ended, and hands further ones to the queue.
	SettleDelivery(ctx context.Context, s tasks.Settled) error
}

// Sender makes one attempt; *webhook.Sender is one.
type Sender interface {
	Send(ctx context.Context, d webhook.Delivery) webhook.Result
}

// DelivererConfig says what a Deliverer works with.
type DelivererConfig struct {
	Redis  redis.UniversalClient // for Asynq alone: a hook is put on it
	Prefix string                // of the queue, see [queue.Name]
	Record Deliveries
	// Hand puts deliveries that a sweep handed out into the queue.
	Hand   func(ctx context.Context, list []tasks.DeliveryTicket) error
	Sender Sender
	// Base is public_url, the beginning of the links in a body; it may be known
	// only once the API listens.
	Base func() string
	// Spill takes ends of attempts that Redis refuses for KeepAfter, 0 meaning 60 s,
	// while it takes others, and those that are left at a stop. Nil: the next worker
	// sends those deliveries once more.
	Spill     Spill
	KeepAfter time.Duration
	Trace     *trace.Tracer // nil: no spans are made
	// Concurrency is how many tasks of the queue this process has in hand at once;
	// 0 means 768, as many as there are deliveries under way.
	Concurrency int
	// Every is the pause between sweeps when nothing wakes one; 0 means one second.
	Every   time.Duration
	Log     *slog.Logger          // nil: silent
	Metrics prometheus.Registerer // nil: none
}

// Deliverer sends the events that the record holds, until it is told to stop.
// An attempt whose end was not recorded is made again: a receiver gets each
// event at least once, always under the same id.
type Deliverer struct {
	c        DelivererConfig
	log      *slog.Logger
	server   *server
	wake     chan struct{}
	ended    *prometheus.CounterVec
	standing *prometheus.GaugeVec
	disabled prometheus.Gauge
	refusals refusals

	mu   sync.Mutex
	hand map[tasks.DeliveryTicket]bool // taken and not settled yet
}

// deliverGrace is how long a shutdown waits for the deliveries in hand. Then it
// cuts them off, and the next process sends them again.
const deliverGrace = 5 * time.Second

// sweepPause is the shortest time between two sweeps, however many events come.
const sweepPause = 5 * time.Millisecond

// NewDeliverer returns a Deliverer, or says what its configuration lacks.
func NewDeliverer(c DelivererConfig) (*Deliverer, error) {
	if c.Redis == nil || c.Record == nil || c.Hand == nil || c.Sender == nil || c.Base == nil {
		return nil, errors.New("deliverer: Redis, Record, Hand, Sender and Base are needed")
	}
	if c.Concurrency == 0 {
		c.Concurrency = 768
	}
	if c.Every == 0 {
		c.Every = time.Second
	}
	d := &Deliverer{
		c: c, log: c.Log, wake: make(chan struct{}, 1), hand: map[tasks.DeliveryTicket]bool{},
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_deliveries_total", Help: "Deliveries of webhooks that ended, by status.",
		}, []string{"status"}),
		standing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_deliveries", Help: "Deliveries handed out or waiting for another try, and receivers with something ready.",
		}, []string{"state"}),
		disabled: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_webhook_endpoints_disabled", Help: "Webhook endpoints that are disabled since their receivers failed for five days or answered 410.",
		}),
	}
	d.refusals.after = cmp.Or(c.KeepAfter, keepAfter)
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	for _, s := range []tasks.DeliveryStatus{tasks.DeliveryDelivered, tasks.DeliveryExhausted} {
		d.ended.WithLabelValues(string(s))
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(d.ended, d.standing, d.disabled)
	}
	d.server = newServer(serverConfig{redis: c.Redis, prefix: c.Prefix, poll: time.Second, grace: deliverGrace, handBack: deliverGrace, log: d.log})
	d.server.serve(queue.Deliveries, c.Concurrency, nil, d.handle)
	return d, nil
}

// Kick wakes this process's idle server.
func (d *Deliverer) Kick() { d.server.kick(queue.Deliveries, 0) }

// Wake says that something may be due.
func (d *Deliverer) Wake() {
	select {
	case d.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Run delivers until ctx ends. Attempts in hand then get five seconds.
func (d *Deliverer) Run(ctx context.Context) error {
	alive, done := context.WithCancel(context.WithoutCancel(ctx)) // as long as an attempt is in hand
	var renewing sync.WaitGroup
	renewing.Go(func() { d.renews(alive) })
	defer renewing.Wait()
	defer done()
	return d.server.run(ctx, func() { d.sweeps(ctx) })
}

// renewEvery is how often the record is told that attempts are under way: often
// enough that three in a row may fail.
const renewEvery = 2500 * time.Millisecond

func (d *Deliverer) renews(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		list := slices.Collect(maps.Keys(d.hand))
		d.mu.Unlock()
		if len(list) == 0 {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, renewEvery)
		switch err := d.c.Record.RenewDeliveries(asking, list); {
		case err == nil:
			d.refusals.passed()
		case ctx.Err() == nil:
			d.log.Warn("deliveries under way were not renewed", "error", err)
		}
		cancel()
	}
}

// grasp notes that deliveries are in hand, and returns those that were not before:
// a task of the queue may come twice.
func (d *Deliverer) grasp(list []tasks.DeliveryTicket) (fresh []tasks.DeliveryTicket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range list {
		if !d.hand[t] {
			d.hand[t] = true
			fresh = append(fresh, t)
		}
	}
	return fresh
}

func (d *Deliverer) release(list ...tasks.DeliveryTicket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range list {
		delete(d.hand, t)
	}
}

func (d *Deliverer) sweeps(ctx context.Context) {
	for {
		pause := d.c.Every
		swept, err := d.c.Record.SweepDeliveries(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.log.Warn("sweep of deliveries", "error", err)
		default:
			if err := d.c.Hand(ctx, swept.Hand); err != nil {
				d.log.Warn("deliveries were not handed to the queue yet", "error", err)
			}
			d.standing.WithLabelValues("out").Set(float64(swept.Out))
			d.standing.WithLabelValues("waiting").Set(float64(swept.Waiting))
			d.standing.WithLabelValues("lanes").Set(float64(swept.Lanes))
			d.disabled.Set(float64(swept.Disabled))
			if swept.NextDue >= 0 {
				pause = min(pause, swept.NextDue)
			}
		}
		spare := time.NewTimer(sweepPause)
		select {
		case <-ctx.Done():
			spare.Stop()
			return
		case <-spare.C:
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-d.wake:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// handle makes the attempts of one task, beside each other. A nil error
// acknowledges the task: the rest of the work stands in the record.
func (d *Deliverer) handle(ctx context.Context, id string, task *asynq.Task) error {
	list, err := queue.DeliveryTickets(id, task)
	if err != nil {
		return err
	}
	list = d.grasp(list)
	if len(list) == 0 {
		return nil
	}
	defer d.release(list...) // those that are void
	open, err := d.c.Record.OpenDeliveries(ctx, list)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for i := range open {
		if i == len(open)-1 {
			d.attempt(ctx, &open[i])
			break
		}
		all.Go(func() { d.attempt(ctx, &open[i]) })
	}
	all.Wait()
	return nil
}

// attempt sends once and records what came of it.
func (d *Deliverer) attempt(ctx context.Context, s *tasks.Sending) {
	dl := &s.Delivery
	e := tasks.Settled{Ticket: tasks.DeliveryTicket{ID: dl.ID, Fence: dl.Fence}, Tenant: dl.Tenant}
	defer d.release(e.Ticket)
	switch {
	case dl.Endpoint != "" && s.Endpoint == nil:
		e.Status, e.Reason = tasks.DeliveryExhausted, "endpoint_deleted"
	case s.Endpoint != nil && !s.Endpoint.DisabledAt.IsZero():
		e.Status, e.Reason = tasks.DeliveryExhausted, "endpoint_disabled"
	default:
		body, err := eventBody(s, d.c.Base())
		if err != nil {
			d.log.Error("a webhook has no body", "delivery", dl.ID, "error", err)
			e.Status, e.Reason = tasks.DeliveryExhausted, string(webhook.Invalid)
			break
		}
		url, own, ca := dl.URL, tasks.Headers(nil), tasks.CA("")
		if s.Endpoint != nil {
			url, own, ca = s.Endpoint.URL, s.Endpoint.Headers, s.Endpoint.CA
		}
		at := time.Now()
		res := d.c.Sender.Send(ctx, webhook.Delivery{ID: dl.Event, URL: url, Body: body, Keys: signers(s, at), Headers: own, CA: ca})
		d.c.Trace.Delivery(trace.Delivery{
			Job: s.Job, ID: dl.ID, Type: dl.Type, Number: dl.Attempts + 1, Outcome: string(res.Outcome), Arrived: res.Outcome == webhook.Delivered, Status: res.Status, At: at, Took: time.Since(at),
		})
		delay, again := webhook.Next(dl.Attempts+1, res, rand.Float64())
		e.Status, e.Reason, e.Delay, e.Counted = tasks.DeliveryExhausted, string(res.Outcome), delay, res.Outcome.Attempted()
		e.Disable = res.Outcome == webhook.Gone
		if dl.Body == nil {
			e.Body = body
		}
		e.Attempt = tasks.DeliveryAttempt{At: at.UTC().Truncate(time.Millisecond), Outcome: string(res.Outcome), Status: res.Status, Latency: res.Latency, Answer: res.Body}
		switch {
		case res.Outcome == webhook.Delivered:
			e.Status = tasks.DeliveryDelivered
		case again:
			e.Status = tasks.DeliveryPending
		}
	}
	if d.settle(ctx, e) && e.Status != tasks.DeliveryPending {
		d.ended.WithLabelValues(string(e.Status)).Inc()
		if e.Status == tasks.DeliveryExhausted {
			attrs := []any{"delivery", dl.ID, "tenant", dl.Tenant, "type", dl.Type, "reason", e.Reason}
			if s.Job != nil && s.Job.Trace != "" {
				attrs = append(attrs, "trace_id", s.Job.TraceID())
			}
			d.log.Warn("a webhook is exhausted", attrs...)
		}
	}
}

// settle records an end, again until Redis takes it, and reports whether it did. What
// is refused although other writes succeed, and what is left at a stop, goes to the
// disk, where there is one; else the next worker sends the delivery once more.
func (d *Deliverer) settle(base context.Context, e tasks.Settled) bool {
	err := d.refusals.persist(d.server.stopping, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(base), 10*time.Second)
		defer cancel()
		err := d.c.Record.SettleDelivery(ctx, e)
		if err != nil {
			d.log.Warn("an attempt at a webhook was not recorded yet", "delivery", e.Ticket.ID, "error", err)
		} else {
			d.refusals.passed()
		}
		return err
	})
	if err != nil && d.c.Spill != nil {
		if err := d.c.Spill.KeepDelivery(e, err); err != nil {
			d.log.Error("the end of an attempt at a webhook that redis does not take cannot be kept in data_dir either", "delivery", e.Ticket.ID, "error", err)
		}
	}
	return err == nil
}

// signers are the keys of an attempt, the current ones first.
func signers(s *tasks.Sending, now time.Time) []webhook.Key {
	var keys []webhook.Key
	add := func(secret, private string) {
		if k, err := webhook.ParseSecret(secret); err == nil {
			keys = append(keys, k)
		}
		if k, err := webhook.ParsePrivateKey(private); private != "" && err == nil {
			keys = append(keys, k)
		}
	}
	add(s.Keys.Secret, s.Keys.Private)
	if now.Before(s.Keys.OldUntil) {
		add(s.Keys.OldSecret, s.Keys.OldPrivate)
	}
	return keys
}

// eventBody is the body as it was first sent, or builds it. An event of an ending
// that the job or batch has left behind, or whose record is gone, says what the
// delivery itself knows.
func eventBody(s *tasks.Sending, base string) ([]byte, error) {
	d := &s.Delivery
	if d.Body != nil {
		return d.Body, nil
	}
	t := tasks.EventType(d.Type)
	if s.Endpoint != nil && s.Endpoint.OpenAI {
		object := d.Object
		if s.Job != nil {
			object = s.Job.OpenAIID()
		}
		if body, err := webhook.OpenAIEvent(d.Event, t, d.CreatedAt, object); err == nil {
			return body, nil
		}
	}
	switch t {
	case tasks.EventBatchCompleted:
		b := tasks.Batch{ID: d.Object}
		if s.Batch != nil {
			b = *s.Batch
		}
		b.Status, b.EndedAt = tasks.BatchEnded, d.CreatedAt
		return webhook.BatchEvent(b, base)
	case tasks.EventPoolPaused, tasks.EventPoolResumed:
		return []byte(d.Detail), nil
	case tasks.EventEndpointDisabled:
		return webhook.EndpointDisabledEvent(d.Object, d.CreatedAt, webhook.Outcome(d.Detail), base)
	case tasks.EventJobSucceeded, tasks.EventJobFailed, tasks.EventJobCanceled, tasks.EventJobExpired:
		j := tasks.Job{ID: d.Object}
		if s.Job != nil {
			j = *s.Job
		}
		if status := tasks.Status(strings.TrimPrefix(d.Type, "job.")); j.Status != status || !j.FinishedAt.Equal(d.CreatedAt) {
			j.Status, j.FinishedAt = status, d.CreatedAt
			j.Result, j.Error, j.Usage, j.Finish = nil, nil, nil, ""
		}
		_, body, err := webhook.JobEvent(j, base, s.Endpoint != nil && s.Endpoint.IncludeResult)
		return body, err
	}
	return webhook.TestEvent(d.Object, d.CreatedAt, base)
}
