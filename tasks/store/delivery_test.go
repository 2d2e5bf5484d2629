package store_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// sending is a store of whose clock the test is master.
type sending struct {
	*testing.T
	*store.Store
	rdb *redis.Client
	now time.Time
}

func newSending(t *testing.T) *sending {
	s := &sending{T: t, rdb: redistest.Start(t, redistest.Options{}).Client(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s.Store = s.another()
	return s
}

// another is another process's store.
func (s *sending) another() *store.Store {
	return store.New(store.Config{
		Redis: s.rdb, Now: func() time.Time { return s.now }, Depth: map[string]int{pool: 8},
		Weight: func(tenant string) int64 { return int64(1 + 2*strings.Count(tenant, "heavy")) }, NewSecret: func() string { return "whsec_1" },
	})
}

// event makes n events of a tenant for a host.
func (s *sending) event(tenant, host string, n int) {
	s.Helper()
	var subs []tasks.Submission
	for range n {
		subs = append(subs, tasks.Submission{Job: tasks.Job{
			ID: store.NewID("job"), Tenant: tenant, Pool: pool, Model: "m", Priority: tasks.Normal, WebhookURL: "https://" + host + "/in",
			Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)},
		}})
	}
	_, _, err := s.Create(s.Context(), subs...)
	must(s.T, err)
	for i := range subs {
		_, err := s.Cancel(s.Context(), tenant, subs[i].Job.ID)
		must(s.T, err)
	}
}

func (s *sending) sweep() []tasks.DeliveryTicket {
	s.Helper()
	swept, err := s.SweepDeliveries(s.Context())
	must(s.T, err)
	return swept.Hand
}

// owners counts handed deliveries by tenant.
func (s *sending) owners(list []tasks.DeliveryTicket) map[string]int {
	s.Helper()
	out := map[string]int{}
	for _, t := range list {
		tenant, err := s.rdb.HGet(s.Context(), "sluice:{s}:d:"+t.ID, "t").Result()
		must(s.T, err)
		out[tenant]++
	}
	return out
}

// pass lets time pass as it does in a process that sweeps each second.
func (s *sending) pass(d time.Duration) (handed []tasks.DeliveryTicket) {
	s.Helper()
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(time.Second)
		handed = append(handed, s.sweep()...)
	}
	return handed
}

// An endpoint's own headers are a field each; a change gives all of them anew, or
// leaves them as they are.
func TestAnEndpointsOwnHeaders(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	e, err := s.CreateEndpoint(t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: "https://a.example/", Events: []string{"job.failed"}, Headers: tasks.Headers{"X-A": "1", "X-B": "2"},
	})
	must(t, err)
	for _, c := range []struct {
		change tasks.EndpointChange
		want   tasks.Headers
	}{
		{tasks.EndpointChange{}, tasks.Headers{"X-A": "1", "X-B": "2"}},
		{tasks.EndpointChange{Events: []string{"job.expired"}}, tasks.Headers{"X-A": "1", "X-B": "2"}},
		{tasks.EndpointChange{Headers: tasks.Headers{"X-B": "3", "X-C": "4"}}, tasks.Headers{"X-B": "3", "X-C": "4"}},
		{tasks.EndpointChange{Headers: tasks.Headers{}}, tasks.Headers{}},
	} {
		e, err = s.ChangeEndpoint(t.Context(), "acme", e.ID, c.change)
		must(t, err)
		kept := tasks.Headers{}
		for field, value := range s.rdb.HGetAll(t.Context(), "sluice:{s}:wh:"+e.ID).Val() {
			if name, is := strings.CutPrefix(field, "h:"); is {
				kept[name] = value
			}
		}
		if !maps.Equal(e.Headers, c.want) || !maps.Equal(kept, c.want) {
			t.Errorf("after %v: %q, kept %q; want %q", c.change, map[string]string(e.Headers), map[string]string(kept), map[string]string(c.want))
		}
	}
}

// A tenant with very many receivers that hang leaves places for everybody else,
// however many such tenants there are.
func TestATenantWhoseReceiversHangLeavesPlacesForOthers(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	for host := range 200 {
		s.event("hangs", fmt.Sprintf("host-%d.example", host), 2)
	}
	alone := len(s.sweep())
	if alone < 250 || alone > 260 {
		t.Errorf("a tenant alone has %d of %d places, want a third", alone, store.DeliveryDepth)
	}
	s.event("second", "second.example", 100)
	for i := range 12 {
		for host := range 20 {
			s.event(fmt.Sprintf("hangs-%d", i), fmt.Sprintf("host-%d.example", host), 5)
		}
		s.sweep()
	}
	s.event("late", "late.example", 1)
	if got := s.owners(s.sweep()); got["late"] != 1 {
		t.Errorf("a newcomer waits while others hang: handed out %v", got)
	}
}

// While two tenants wait, places that come free go to them by turns and weight, and to
// a tenant's lanes by turns, whoever has more to send.
func TestDeliveriesGoByTurnsOfTenantsAndThenOfLanes(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	for host := range 60 {
		s.event("many", fmt.Sprintf("host-%02d.example", host), 16)
	}
	held := s.sweep() // it has all that it may have
	s.event("few", "one.example", 40)
	s.event("heavy", "two.example", 40)
	s.event("heavy", "three.example", 40)
	first := s.owners(s.sweep())
	if first["few"] != 16 || first["heavy"] != 32 || first["many"] != 0 {
		t.Errorf("beside one who holds all it may, the others got %v, want what their lanes may have at once", first)
	}
	got := map[string]int{}
	for _, t := range held[:200] {
		next, err := s.SettleDeliveries(s.Context(), []tasks.Settled{{Ticket: t, Status: tasks.DeliveryDelivered, Counted: true, Reason: "delivered"}})
		must(s.T, err)
		for tenant, n := range s.owners(next) {
			got[tenant] += n
		}
	}
	if got["many"] < 100 {
		t.Errorf("of 200 places that came free a tenant got %v back", got)
	}
	if lanes := s.rdb.HLen(s.Context(), "sluice:{s}:wfly").Val(); lanes < 60 {
		t.Errorf("the places are held by %d lanes, want nearly all of 63", lanes)
	}
}

// A claim whose answer was lost hands the same out when it is sent again, and what
// nobody took comes back when its lease ends.
func TestAClaimOfDeliveriesThatWasLostComesBackSoon(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	s.event("acme", "a.example", 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.SweepDeliveries(ctx); err == nil { // nobody heard the answer, if there was one
		t.Fatal("a sweep without a caller succeeded")
	}
	first := s.sweep()
	if len(first) != 3 {
		t.Fatalf("%d handed out, want 3", len(first))
	}
	if again := s.pass(9 * time.Second); len(again) != 0 {
		t.Fatalf("handed out again within their lease: %v", again)
	}
	again := s.pass(5 * time.Second)
	if len(again) != 3 || again[0].Fence <= first[0].Fence {
		t.Errorf("after 14 s %v of %v are handed out again", again, first)
	}
	for _, d := range s.log("acme") {
		if d.Attempts != 0 || len(d.Log) != 0 {
			t.Errorf("what nobody took has an attempt: %+v", d)
		}
	}
	if open, err := s.OpenDeliveries(t.Context(), first); err != nil || len(open) != 0 {
		t.Errorf("an old ticket opens %d deliveries, %v", len(open), err)
	}
}

func (s *sending) log(tenant string) []tasks.Delivery {
	s.Helper()
	page, err := s.Deliveries(s.Context(), tasks.DeliveryFilter{Tenant: tenant, Limit: 100})
	must(s.T, err)
	return page.Deliveries
}

// Each script that hands deliveries out answers the same when it is sent twice, as a
// client does that lost an answer.
func TestAClaimSentTwiceHandsTheSameOut(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	seen := &repeats{}
	s.rdb.AddHook(seen)
	s.event("acme", "a.example", 30) // a lane has 16 places
	first := s.sweep()
	if len(first) != 16 {
		t.Fatalf("%d handed out, want 16", len(first))
	}
	next, err := s.SettleDeliveries(t.Context(), []tasks.Settled{
		{Ticket: first[0], Status: tasks.DeliveryDelivered, Counted: true, Reason: "delivered"},
		{Ticket: first[1], Status: tasks.DeliveryDelivered, Counted: true, Reason: "delivered"},
	})
	if err != nil || len(next) != 2 {
		t.Fatalf("two settled hand out %v, %v", next, err)
	}
	if seen.twice == 0 || len(seen.differ) > 0 {
		t.Errorf("%d scripts were sent twice; these answered otherwise the second time: %v", seen.twice, seen.differ)
	}
}

// repeats sends each script of deliveries twice.
type repeats struct {
	twice  int
	differ []string
}

func (*repeats) DialHook(next redis.DialHook) redis.DialHook { return next }
func (*repeats) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (r *repeats) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		c, ok := cmd.(*redis.Cmd)
		if err != nil || !ok || !slices.ContainsFunc(cmd.Args(), func(v any) bool { return strings.Contains(fmt.Sprint(v), `"claim":`) }) {
			return err
		}
		again := redis.NewCmd(ctx, cmd.Args()...)
		if err := next(ctx, again); err != nil {
			return err
		}
		r.twice++
		hands := func(v any) string {
			if l := v.([]any); len(l) == 5 {
				v = l[0] // of a sweep
			}
			return fmt.Sprint(v)
		}
		if a, b := hands(c.Val()), hands(again.Val()); a != b {
			r.differ = append(r.differ, a+" and then "+b)
		}
		return nil
	}
}

// An attempt is its sender's as long as that renews it. Where the sender died, the
// attempt stands in the log and counts: its receiver has perhaps seen it.
func TestAnAttemptWhoseProcessDiedIsInTheLog(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	s.event("acme", "a.example", 2)
	first := s.sweep()
	open, err := s.OpenDeliveries(t.Context(), first)
	if err != nil || len(open) != 2 {
		t.Fatalf("opened %d, %v", len(open), err)
	}
	if again, err := s.OpenDeliveries(t.Context(), first); err != nil || len(again) != 2 {
		t.Errorf("sent again after a lost answer, the same process opens %d, %v", len(again), err)
	}
	if other, err := s.another().OpenDeliveries(t.Context(), first); err != nil || len(other) != 0 {
		t.Errorf("another process opens %d that are in hand, %v", len(other), err)
	}
	for range 20 { // 40 s
		if again := s.pass(2 * time.Second); len(again) != 0 {
			t.Fatalf("%v handed out while their attempts are under way", again)
		}
		must(t, s.RenewDeliveries(t.Context(), first[:1]))
		if len(s.log("acme")[0].Log)+len(s.log("acme")[1].Log) > 0 {
			break
		}
		must(t, s.RenewDeliveries(t.Context(), first))
	}
	again := s.pass(12 * time.Second)
	if len(again) != 2 {
		t.Fatalf("12 s after the last renewal %v are handed out", again)
	}
	for _, d := range s.log("acme") {
		if d.Attempts != 1 || len(d.Log) != 1 || d.Log[0].Outcome != tasks.DeliveryWorkerLost || d.Log[0].At.IsZero() {
			t.Errorf("after its worker died a delivery has %d attempts and the log %+v", d.Attempts, d.Log)
		}
	}
	// What its process says when it comes to life again is void.
	if next, err := s.SettleDeliveries(t.Context(), []tasks.Settled{{Ticket: first[0], Status: tasks.DeliveryExhausted, Counted: true}}); err != nil || len(next) > 0 {
		t.Errorf("a late end hands out %v, %v", next, err)
	}
	if d := s.log("acme")[1]; d.Status != tasks.DeliveryPending {
		t.Errorf("a late end made the delivery %s", d.Status)
	}
}

// While Redis or all of Sluice was away, nobody could renew: then no lease ends at once.
func TestNoDeliveryIsTakenForLostAfterAnOutage(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	s.event("acme", "a.example", 1)
	first := s.sweep()
	_, err := s.OpenDeliveries(t.Context(), first)
	must(t, err)
	s.now = s.now.Add(time.Minute)
	if again := s.sweep(); len(again) != 0 {
		t.Fatalf("%v handed out at once after an outage", again)
	}
	must(t, s.RenewDeliveries(t.Context(), first))
	if again := s.pass(9 * time.Second); len(again) != 0 {
		t.Errorf("%v handed out although they were renewed", again)
	}
	if again := s.pass(12 * time.Second); len(again) == 0 {
		t.Error("nothing is handed out after the sender fell silent")
	}
}

// Lanes that release 0.1.0 put into its one line are served, and so is, by a release
// that knows that line alone, what this one leaves.
func TestLanesOfTheReleaseBeforeAreServed(t *testing.T) {
	t.Parallel()
	s := newSending(t)
	s.event("acme", "a.example", 2)
	for _, key := range []string{"wtenants", "wlanes:acme", "wrest"} {
		must(t, s.rdb.Del(t.Context(), "sluice:{s}:"+key).Err())
	}
	must(t, s.rdb.ZAdd(t.Context(), "sluice:{s}:wring", redis.Z{Score: 7, Member: "acme|a.example"}).Err())
	if got := s.sweep(); len(got) != 2 {
		t.Errorf("%d of 2 deliveries of the release before are handed out", len(got))
	}
	s.event("acme", "b.example", 1)
	if at, err := s.rdb.ZScore(t.Context(), "sluice:{s}:wrest", "acme|b.example").Result(); err != nil || at > float64(s.now.Add(time.Minute).UnixMilli()) {
		t.Errorf("the release before looks at a lane that is ready at %v, %v", at, err)
	}
}
