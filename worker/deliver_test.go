package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/webhook"
)

// arrival is one request that a receiver got.
type arrival struct {
	id, kind, object, path string
	body                   []byte
	head                   http.Header
	when                   time.Time
}

// receiver keeps what arrives and answers by path: /500, /429 (come back in an
// hour), /410, or 204.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []arrival
	hang chan struct{} // /hang answers when it is closed
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{hang: make(chan struct{})}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		var e struct {
			Type string
			Data struct{ ID string }
		}
		_ = json.Unmarshal(body, &e)
		r.mu.Lock()
		r.got = append(r.got, arrival{req.Header.Get("webhook-id"), e.Type, e.Data.ID, req.URL.Path, body, req.Header, time.Now()})
		r.mu.Unlock()
		switch req.URL.Path {
		case "/500":
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "not today")
		case "/429":
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
		case "/410":
			w.WriteHeader(410)
		case "/hang":
			select {
			case <-r.hang:
			case <-req.Context().Done():
			}
		default:
			w.WriteHeader(204)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) at(path string) []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []arrival
	for _, a := range r.got {
		if a.path == path {
			out = append(out, a)
		}
	}
	return out
}

// desk is a store with a Deliverer on a real Redis.
type desk struct {
	*store.Store
	t      *testing.T
	server *redistest.Server
	feeder *queue.Feeder
	stop   func()
	refuse func() error // asked before an ending is recorded; nil: nothing is refused
	spill  worker.Spill
}

// SettleDelivery records one ending.
func (d *desk) SettleDelivery(ctx context.Context, e tasks.Settled) error {
	if d.refuse != nil {
		if err := d.refuse(); err != nil {
			return err
		}
	}
	next, err := d.SettleDeliveries(ctx, []tasks.Settled{e})
	if err != nil {
		return err
	}
	return d.feeder.HandDeliveries(ctx, next)
}

func newDesk(t *testing.T, options ...func(*desk)) *desk {
	server := redistest.Start(t, redistest.Options{AOF: "always"})
	rdb := server.Client()
	d := &desk{t: t, server: server, Store: store.New(store.Config{Redis: rdb, Depth: map[string]int{claude: 8}, NewSecret: func() string { return webhook.NewSecret().Reveal() }})}
	d.feeder = queue.NewFeeder(queue.Config{Redis: rdb, Backlog: d.Store})
	for _, o := range options {
		o(d)
	}
	d.start()
	return d
}

func (d *desk) start() {
	guard, err := webhook.NewGuard(webhook.GuardConfig{AllowHTTP: true, AllowPrivate: true})
	if err != nil {
		d.t.Fatal(err)
	}
	sender, err := webhook.NewSender(webhook.SenderConfig{Guard: guard, MaxPerHost: 64})
	if err != nil {
		d.t.Fatal(err)
	}
	deliverer, err := worker.NewDeliverer(worker.DelivererConfig{
		Redis: d.server.Client(), Record: d, Hand: d.feeder.HandDeliveries, Sender: sender, Base: func() string { return "https://sluice.example" }, Every: 50 * time.Millisecond, Spill: d.spill,
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- deliverer.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Error(err)
		}
		sender.Close()
	})
	d.t.Cleanup(d.stop)
}

// end makes a job and cancels it, which is an end like another.
func (d *desk) end(url string) string {
	d.t.Helper()
	return d.of("acme", url)
}

func (d *desk) of(tenant, url string) string {
	d.t.Helper()
	return d.made(tasks.Job{Tenant: tenant, WebhookURL: url, Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"a secret prompt"`)}})
}

// made makes a job and cancels it.
func (d *desk) made(j tasks.Job) string {
	d.t.Helper()
	j.ID, j.Model, j.Pool, j.Priority = store.NewID("job"), "m", claude, tasks.Normal
	if _, _, err := d.Create(d.t.Context(), tasks.Submission{Job: j}); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.Cancel(d.t.Context(), j.Tenant, j.ID); err != nil {
		d.t.Fatal(err)
	}
	return j.ID
}

func (d *desk) endpoint(url string, events ...string) tasks.Endpoint {
	d.t.Helper()
	e, err := d.CreateEndpoint(d.t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: url, Events: events, Signature: "v1", Keys: tasks.SigningKeys{Secret: webhook.NewSecret().Reveal()},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return e
}

// An event in OpenAI's form names what ended by the id that its caller was given: what
// was made as a response, by the response's.
func TestAnEventInOpenAIsFormHasTheIDThatItsCallerWasGiven(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	_, err := d.CreateEndpoint(t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: r.URL + "/openai", Events: []string{"job.canceled"}, Signature: "v1", OpenAI: true,
		Keys: tasks.SigningKeys{Secret: webhook.NewSecret().Reveal()},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, path := range []tasks.Path{tasks.Chat, tasks.Responses, tasks.Embeddings} {
		id := d.made(tasks.Job{Tenant: "acme", Request: tasks.Request{Kind: tasks.Raw, Endpoint: path, Body: []byte(`{}`)}})
		if path == tasks.Responses {
			id = "resp_" + strings.TrimPrefix(id, "job_")
		}
		want[id] = true
	}
	until(t, "three events arrived", func() bool { return len(r.at("/openai")) == len(want) })
	for _, a := range r.at("/openai") {
		if !want[a.object] || a.kind != "response.cancelled" {
			t.Errorf("told %s of %s; want one of %v", a.kind, a.object, want)
		}
	}
}

func (d *desk) list(f tasks.DeliveryFilter) []tasks.Delivery {
	d.t.Helper()
	f.Tenant, f.Limit = "acme", 100
	page, err := d.Deliveries(d.t.Context(), f)
	if err != nil {
		d.t.Fatal(err)
	}
	return page.Deliveries
}

var until = redistest.Until

// verified fails the test unless the official library takes the message.
func verified(t *testing.T, a arrival, secret string) {
	t.Helper()
	w, err := standard.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Verify(a.body, a.head); err != nil {
		t.Errorf("the official library refuses %s: %v", a.id, err)
	}
}

func TestAJobsOwnAddressIsToldOfItsEnd(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	job := d.end(r.URL + "/ok")
	until(t, "it arrived", func() bool { return len(r.at("/ok")) == 1 })
	a := r.at("/ok")[0]
	k, err := d.TenantKeys(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	verified(t, a, k.Secret)
	if a.kind != "job.canceled" || a.object != job || !strings.HasPrefix(a.id, "evt_") {
		t.Errorf("got %s of %s as %s", a.kind, a.object, a.id)
	}
	if strings.Contains(string(a.body), "secret prompt") {
		t.Error("the prompt is in the body")
	}
	until(t, "it is listed as delivered", func() bool { return len(d.list(tasks.DeliveryFilter{Status: tasks.DeliveryDelivered})) == 1 })
	dl := d.list(tasks.DeliveryFilter{})[0]
	if len(dl.Log) != 1 || dl.Log[0].Status != 204 || dl.Event != a.id {
		t.Errorf("the delivery is %+v", dl)
	}

	// Sent again, it is the same event at another time.
	if _, err := d.Redeliver(t.Context(), "acme", dl.ID); err != nil {
		t.Fatal(err)
	}
	until(t, "it arrived again", func() bool { return len(r.at("/ok")) == 2 })
	again := r.at("/ok")[1]
	verified(t, again, k.Secret)
	if again.id != a.id || string(again.body) != string(a.body) {
		t.Errorf("sent again it is %s %s, was %s %s", again.id, again.body, a.id, a.body)
	}
	if _, err := d.Redeliver(t.Context(), "other", dl.ID); err != tasks.ErrNotFound {
		t.Errorf("another tenant's redelivery: %v", err)
	}
}

func TestARefusedWebhookIsTriedAgainByTheSchedule(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	d.end(r.URL + "/500")
	until(t, "the failure is in the log", func() bool {
		l := d.list(tasks.DeliveryFilter{Status: tasks.DeliveryPending})
		return len(l) == 1 && len(l[0].Log) == 1
	})
	dl := d.list(tasks.DeliveryFilter{})[0]
	if at := dl.Log[0]; at.Status != 500 || at.Answer != "not today" || at.Outcome != "http_5xx" {
		t.Errorf("the attempt is %+v", at)
	}
	if wait := dl.DueAt.Sub(dl.Log[0].At); wait < 4*time.Second || wait > 20*time.Second {
		t.Errorf("the second attempt is %v after the first, want 4 to 6 s", wait)
	}
	if _, err := d.Redeliver(t.Context(), "acme", dl.ID); err != nil { // now rather than then
		t.Fatal(err)
	}
	until(t, "the second attempt", func() bool { return len(r.at("/500")) == 2 })
	if g := r.at("/500"); g[0].id != g[1].id {
		t.Errorf("the id changed from %s to %s", g[0].id, g[1].id)
	}
}

func TestEndpointsTakeTheirEvents(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	ends := d.endpoint(r.URL+"/ends", "job.canceled")
	d.endpoint(r.URL+"/none", "job.failed")
	b, _, err := d.OpenBatch(t.Context(), store.NewID("batch"), "acme", "")
	if err != nil {
		t.Fatal(err)
	}
	whole := d.endpoint(r.URL+"/batch", "batch.completed")
	lines := []tasks.Job{
		{ID: store.NewID("job"), Tenant: "acme", Pool: claude, Model: "m", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)}},
		{ID: store.NewID("job"), Tenant: "acme", Pool: claude, Model: "m", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)}},
	}
	if err := d.StageBatch(t.Context(), b.ID, lines, tasks.Limits{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CancelBatch(t.Context(), "acme", b.ID); err != nil {
		t.Fatal(err)
	}
	until(t, "three events arrived", func() bool { return len(r.at("/ends")) == 2 && len(r.at("/batch")) == 1 })
	verified(t, r.at("/ends")[0], ends.Keys.Secret)
	verified(t, r.at("/batch")[0], whole.Keys.Secret)
	if a := r.at("/batch")[0]; a.kind != "batch.completed" || a.object != b.ID || !strings.Contains(string(a.body), `"canceled":2`) {
		t.Errorf("got %s", a.body)
	}
	if len(r.at("/none")) > 0 {
		t.Error("an endpoint got an event that it does not take")
	}

	// After a rotation both secrets verify.
	fresh := webhook.NewSecret().Reveal()
	if _, err := d.RotateKeys(t.Context(), "acme", ends.ID, tasks.SigningKeys{Secret: fresh}); err != nil {
		t.Fatal(err)
	}
	d.end("")
	until(t, "an event after the rotation", func() bool { return len(r.at("/ends")) == 3 })
	verified(t, r.at("/ends")[2], fresh)
	verified(t, r.at("/ends")[2], ends.Keys.Secret)
}

func TestAnEndpointThatIsGoneIsDisabledAndTheOthersAreTold(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	gone := d.endpoint(r.URL+"/410", "job.canceled", "endpoint.disabled")
	other := d.endpoint(r.URL+"/other", "endpoint.disabled")
	d.end("")
	until(t, "the other endpoint is told", func() bool { return len(r.at("/other")) == 1 })
	if a := r.at("/other")[0]; a.kind != "endpoint.disabled" || a.object != gone.ID {
		t.Errorf("told %s of %s", a.kind, a.object)
	}
	e, err := d.Endpoint(t.Context(), "acme", gone.ID)
	if err != nil || e.DisabledAt.IsZero() || e.DisabledReason != "gone" {
		t.Fatalf("the endpoint is %+v, %v", e, err)
	}
	disabled := func() int {
		swept, err := d.SweepDeliveries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return swept.Disabled
	}
	if n := disabled(); n != 1 {
		t.Errorf("%d endpoints count as disabled by failures; want 1", n)
	}
	d.end("")
	no, yes := false, true
	if _, err := d.ChangeEndpoint(t.Context(), "acme", gone.ID, tasks.EndpointChange{Disabled: &no}); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Client().ZAdd(t.Context(), "sluice:{s}:whd", redis.Z{Member: gone.ID}).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "an endpoint that another release enabled counts no more", func() bool { return disabled() == 0 })
	d.end("")
	until(t, "it is sent to again", func() bool { return len(r.at("/410")) == 2 })
	if n := len(d.list(tasks.DeliveryFilter{Endpoint: gone.ID})); n != 2 {
		t.Errorf("%d deliveries, want 2: none while it was disabled", n)
	}
	until(t, "it is disabled again", func() bool { return disabled() == 1 })
	if err := d.DeleteEndpoint(t.Context(), "acme", gone.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ChangeEndpoint(t.Context(), "acme", other.ID, tasks.EndpointChange{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	if n := disabled(); n != 0 {
		t.Errorf("%d endpoints count as disabled by failures; want none: one is deleted, its owner disabled the other", n)
	}
}

// field changes one field of an endpoint's record, to move its past.
func (d *desk) field(endpoint, name string, at time.Time) {
	d.t.Helper()
	rdb := d.server.Client()
	keys, err := rdb.Keys(d.t.Context(), "*wh:"+endpoint).Result()
	if err != nil || len(keys) != 1 {
		d.t.Fatalf("the endpoint's keys are %v, %v", keys, err)
	}
	if err := rdb.HSet(d.t.Context(), keys[0], name, at.UnixMilli()).Err(); err != nil {
		d.t.Fatal(err)
	}
}

func TestAnEndpointThatFailsForFiveDaysIsDisabled(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	bad := d.endpoint(r.URL+"/500", "job.canceled", "endpoint.disabled")
	d.endpoint(r.URL+"/other", "endpoint.disabled")
	failed := func(n int) func() bool {
		return func() bool {
			logs := 0
			for _, dl := range d.list(tasks.DeliveryFilter{Endpoint: bad.ID}) {
				logs += len(dl.Log)
			}
			return logs == n
		}
	}
	d.end("")
	until(t, "an attempt failed", failed(1))
	const span = 5 * 24 * time.Hour
	d.field(bad.ID, "bad", time.Now().Add(time.Minute-span))
	d.end("")
	until(t, "another failed", failed(2))
	e, err := d.Endpoint(t.Context(), "acme", bad.ID)
	if err != nil || !e.DisabledAt.IsZero() {
		t.Fatalf("a minute before five days: %+v, %v", e, err)
	}
	d.field(bad.ID, "bad", time.Now().Add(-span))
	d.end("")
	until(t, "the other endpoint is told", func() bool { return len(r.at("/other")) == 1 })
	if a := r.at("/other")[0]; a.kind != "endpoint.disabled" || a.object != bad.ID || !strings.Contains(string(a.body), `"reason":"http_5xx"`) {
		t.Errorf("told %s", a.body)
	}
	if e, err = d.Endpoint(t.Context(), "acme", bad.ID); err != nil || e.DisabledAt.IsZero() || e.DisabledReason != "http_5xx" {
		t.Errorf("after five days: %+v, %v", e, err)
	}
	no := false
	if e, err = d.ChangeEndpoint(t.Context(), "acme", bad.ID, tasks.EndpointChange{Disabled: &no}); err != nil || !e.DisabledAt.IsZero() || !e.FailingSince.IsZero() {
		t.Errorf("enabled again: %+v, %v", e, err)
	}
	d.end("")
	until(t, "it is tried again", failed(4))
	if e, err = d.Endpoint(t.Context(), "acme", bad.ID); err != nil || !e.DisabledAt.IsZero() {
		t.Errorf("one failure after it was enabled again: %+v, %v", e, err)
	}
}

func TestRetryAfterIsHeardUpToTheNextStep(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	d.end(r.URL + "/429")
	until(t, "the refusal is in the log", func() bool { l := d.list(tasks.DeliveryFilter{}); return len(l) == 1 && len(l[0].Log) == 1 })
	dl := d.list(tasks.DeliveryFilter{})[0]
	// Planned are 5 s; it asked for an hour, and gets the 5 minutes of the step after that.
	if wait := dl.DueAt.Sub(dl.Log[0].At.Add(dl.Log[0].Latency)); dl.Log[0].Outcome != "throttled" || wait < 299*time.Second || wait > 302*time.Second {
		t.Errorf("after %s the next attempt is %v later, want 5 min", dl.Log[0].Outcome, wait)
	}
}

func TestAnOldSecretSignsForADay(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	e := d.endpoint(r.URL+"/ok", "job.canceled")
	if _, err := d.RotateKeys(t.Context(), "acme", e.ID, tasks.SigningKeys{Secret: webhook.NewSecret().Reveal()}); err != nil {
		t.Fatal(err)
	}
	now, err := d.Endpoint(t.Context(), "acme", e.ID)
	if left := time.Until(now.Keys.OldUntil); err != nil || left < 23*time.Hour || left > 24*time.Hour+time.Minute {
		t.Fatalf("the old secret signs for %v more, %v", left, err)
	}
	d.end("")
	until(t, "an event", func() bool { return len(r.at("/ok")) == 1 })
	d.field(e.ID, "x2", time.Now().Add(-time.Second))
	d.end("")
	until(t, "an event a day later", func() bool { return len(r.at("/ok")) == 2 })
	for i, want := range []int{2, 1} {
		a := r.at("/ok")[i]
		if got := len(strings.Fields(a.head.Get("webhook-signature"))); got != want {
			t.Errorf("event %d has %d signatures, want %d", i+1, got, want)
		}
		verified(t, a, now.Keys.Secret)
	}
	verified(t, r.at("/ok")[0], e.Keys.Secret)
}

// handed sweeps until n deliveries that ours picks have been handed out, and
// returns how long that took. No sender may run.
func (d *desk) handed(n int, ours func(id string) bool) time.Duration {
	d.t.Helper()
	began, got := time.Now(), 0
	until(d.t, fmt.Sprintf("%d are handed out", n), func() bool {
		swept, err := d.SweepDeliveries(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		for _, ticket := range swept.Hand {
			if ours(ticket.ID) {
				got++
			}
		}
		if got < n && (swept.NextDue < 0 || swept.NextDue > time.Second) {
			d.t.Fatalf("the next may go in %v", swept.NextDue)
		}
		return got >= n
	})
	return time.Since(began)
}

func TestAnEndpointsRateIsKept(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	e := d.endpoint(r.URL+"/slow", "job.canceled")
	d.endpoint(r.URL+"/quick", "job.canceled")
	rate := 10
	if _, err := d.ChangeEndpoint(t.Context(), "acme", e.ID, tasks.EndpointChange{MaxPerSecond: &rate}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		d.end("")
	}
	until(t, "all arrived", func() bool { return len(r.at("/slow")) == 4 && len(r.at("/quick")) == 4 })
	until(t, "all are recorded", func() bool { return len(d.list(tasks.DeliveryFilter{Status: tasks.DeliveryDelivered})) == 8 })
	for _, dl := range d.list(tasks.DeliveryFilter{Endpoint: e.ID}) {
		if dl.Attempts != 1 {
			t.Errorf("waiting used up an attempt: %+v", dl)
		}
	}
	d.stop()
	for range 8 {
		d.end("")
	}
	slow := map[string]bool{}
	for _, dl := range d.list(tasks.DeliveryFilter{Endpoint: e.ID}) {
		slow[dl.ID] = true
	}
	others := 0
	took := d.handed(8, func(id string) bool {
		if !slow[id] {
			others++
		}
		return slow[id]
	})
	if took < 690*time.Millisecond || others != 8 {
		t.Errorf("8 deliveries at 10 a second were handed out within %v, want 700 ms; and %d to the other endpoint, want 8", took, others)
	}
}

func TestAReceiverThatFailsGetsOneASecond(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	fail := func(n int) {
		t.Helper()
		d.end(r.URL + "/500")
		until(t, "the failure is recorded", func() bool {
			failed := 0
			for _, dl := range d.list(tasks.DeliveryFilter{Status: tasks.DeliveryPending}) {
				failed += min(1, len(dl.Log))
			}
			return failed == n
		})
	}
	fail(1)
	d.end(r.URL + "/ok") // the same lane, which is well again
	until(t, "it arrived", func() bool { return len(d.list(tasks.DeliveryFilter{Status: tasks.DeliveryDelivered})) == 1 })
	for range 20 {
		d.end(r.URL + "/ok")
	}
	until(t, "all arrived", func() bool { return len(r.at("/ok")) == 21 })
	close := 0 // to the one before; by the rule for one that fails none is
	for i, a := range r.at("/ok")[1:] {
		if a.when.Sub(r.at("/ok")[i].when) < 900*time.Millisecond {
			close++
		}
	}
	if close < 5 {
		t.Errorf("of 20 deliveries to one that is well again %d came within 0.9 s of the one before", close)
	}
	until(t, "they are recorded", func() bool { return len(d.list(tasks.DeliveryFilter{Status: tasks.DeliveryDelivered})) == 21 })
	fail(2)
	d.stop()
	d.end(r.URL + "/500")
	d.end(r.URL + "/500")
	if took := d.handed(2, func(string) bool { return true }); took < 990*time.Millisecond {
		t.Errorf("two attempts at a receiver that fails were handed out within %v, want a second between them", took)
	}
}

func TestAReceiverThatHangsHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	defer close(r.hang)
	d.endpoint(r.URL+"/hang", "job.canceled")
	d.endpoint(r.URL+"/quick", "job.canceled")
	for range 100 {
		d.end("")
	}
	until(t, "the quick one has all", func() bool { return len(r.at("/quick")) == 100 })
	n, hung := 0, r.at("/hang")
	for _, a := range hung {
		if a.when.Sub(hung[0].when) < 5*time.Second { // on a busy machine the first may have timed out
			n++
		}
	}
	if n > 16 {
		t.Errorf("%d deliveries hang, want 16 at most", n)
	}
	var ids []string
	for _, a := range r.at("/quick") {
		ids = append(ids, a.id)
	}
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 100 {
		t.Errorf("%d ids of 100 events", n)
	}
}

// One tenant names a thousand hosts that take each connection and say nothing; another
// tenant's webhook comes within 2 s all the same.
func TestAThousandHostsThatHangDelayNoOtherTenant(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	var open []net.Conn // by the acceptor alone, until it has ended
	accepted, acceptor := make(chan struct{}, 4096), sync.WaitGroup{}
	acceptor.Go(func() {
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			open = append(open, c)
			accepted <- struct{}{}
		}
	})
	defer func() { // the attempts end before their sender does
		_ = silent.Close()
		acceptor.Wait()
		for _, c := range open {
			_ = c.Close()
		}
	}()
	one := func(i int) time.Duration {
		began := time.Now()
		d.of("other", r.URL+fmt.Sprintf("/%d", i))
		until(t, "the other tenant's webhook", func() bool { return len(r.at(fmt.Sprintf("/%d", i))) == 1 })
		return time.Since(began)
	}
	without := one(-1)
	port := silent.Addr().(*net.TCPAddr).Port
	for i := range 1000 {
		d.of("hangs", fmt.Sprintf("http://127.1.%d.%d:%d/", i/250, 1+i%250, port))
	}
	for range 200 { // all places of old are held: what hangs is under way
		<-accepted
	}
	took := make([]time.Duration, 5)
	for i := range took {
		took[i] = one(i)
	}
	if slices.Sort(took); took[2] > 2*time.Second+5*without {
		t.Errorf("beside a thousand hosts that hang, webhooks of another tenant took %v, and %v without", took, without)
	}
}

func TestAPoolThatIsPausedIsToldOnce(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	d.endpoint(r.URL+"/pools", "pool.paused", "pool.resumed")
	for _, paused := range []bool{false, true, true, false, false} {
		body := fmt.Sprintf(`{"type":"pool","data":{"id":%q,"paused":%v}}`, claude, paused)
		if err := d.PoolEvent(t.Context(), claude, paused, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "both are told", func() bool { return len(r.at("/pools")) == 2 })
	if n := len(d.list(tasks.DeliveryFilter{})); n != 2 {
		t.Errorf("%d deliveries, want 2", n)
	}
}

func TestDeliveriesOutliveRedisAndTheirSender(t *testing.T) {
	t.Parallel()
	d, r := newDesk(t), newReceiver(t)
	d.stop()
	var jobs []string
	for range 20 {
		jobs = append(jobs, d.end(r.URL+"/ok"))
	}
	d.server.Kill()
	d.server.Start()
	d.start()
	until(t, "all arrived", func() bool { return len(r.at("/ok")) >= 20 })
	seen := map[string]bool{}
	for _, a := range r.at("/ok") {
		seen[a.object] = true
	}
	for _, id := range jobs {
		if !seen[id] {
			t.Errorf("%s was never told", id)
		}
	}
}

// What Redis says while a delivery's end is recorded, known or not, is no reason
// to send it once more.
func TestADeliveryIsNotSentAgainAfterAnErrorOfRedis(t *testing.T) {
	t.Parallel()
	said := make(chan error, 3)
	for _, err := range []error{syscall.EPIPE, errors.New("NOPERM this user has no permissions"), errors.New("nobody has seen this yet")} {
		said <- err
	}
	d, r := newDesk(t, func(d *desk) {
		d.refuse = func() error {
			select {
			case err := <-said:
				return err
			default:
				return nil
			}
		}
	}), newReceiver(t)
	d.end(r.URL + "/ok")
	until(t, "its end is recorded", func() bool {
		list := d.list(tasks.DeliveryFilter{})
		return len(list) == 1 && list[0].Status == tasks.DeliveryDelivered
	})
	if n := len(r.at("/ok")); n != 1 || len(said) > 0 {
		t.Errorf("sent %d times with %d errors to come; want once after all", n, len(said))
	}
}
