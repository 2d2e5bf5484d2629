package store_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// The answer of a bulk call is sealed for that call's id: a repeat, which has an id of its own,
// opens it under the first one's.
func TestARepeatedBulkCallOpensTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s, ctx := sealing(t, redistest.New(t), "a"), t.Context()
	if b, err := s.ReserveKey(ctx, "acme", "key", "print", "bulk_1"); err != nil || b != nil {
		t.Fatalf("%s, %v", b, err)
	}
	must(t, s.SaveAnswer(ctx, "acme", "key", "bulk_1", []byte("first")))
	if b, err := s.ReserveKey(ctx, "acme", "key", "print", "bulk_2"); err != nil || string(b) != "first" {
		t.Errorf("the repeat is answered %q, %v", b, err)
	}
}

// tells has a job with a webhook of its own run to its end.
func tells(t *testing.T, s *store.Store, tenant string) tasks.Job {
	t.Helper()
	j := job(tenant)
	j.WebhookURL = "https://" + tenant + ".example/"
	k := submits(t, s, j)[0]
	take(t, s, k)
	start(t, s, k)
	k.Tenant = tenant
	_, err := s.End(t.Context(), k, won)
	must(t, err)
	return j
}

// The master key of one tenant is missing in this process: submits, deliveries, lists and moves
// of others go on, and its own wait for it.
func TestAMissingKeyStopsItsTenantAlone(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	whole, s := sealing(t, rdb, "b", "lost"), sealing(t, rdb, "b")
	shut := tells(t, whole, "acme")
	tells(t, s, "globex")

	made, _, err := s.Create(ctx, tasks.Submission{Job: job("acme")}, tasks.Submission{Job: job("globex")}, tasks.Submission{Job: job("acme")})
	var sealed *tasks.SealError
	if err != nil || !errors.As(made[0].Err, &sealed) || sealed.Key != "lost" || made[1].Err != nil || made[1].Job.Tenant != "globex" || !errors.As(made[2].Err, &sealed) {
		t.Errorf("submitted: %+v, %v", made, err)
	}

	swept, err := s.SweepDeliveries(ctx)
	must(t, err)
	open, err := s.OpenDeliveries(ctx, swept.Hand)
	if err != nil || len(swept.Hand) != 2 || len(open) != 1 || open[0].Delivery.Tenant != "globex" {
		t.Errorf("of %d deliveries %d are opened, %v", len(swept.Hand), len(open), err)
	}
	page, err := whole.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Limit: 10})
	if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].Status != tasks.DeliveryPending || page.Deliveries[0].Attempts != 0 || page.Deliveries[0].Reason != "sealed" {
		t.Errorf("the delivery that waits: %+v, %v", page, err)
	}

	list, err := s.Jobs(ctx, tasks.Filter{Tenant: "acme", Limit: 10})
	if err != nil || len(list.Jobs) != 1 || list.Jobs[0].ID != shut.ID || list.Jobs[0].Error == nil || list.Jobs[0].Error.Code != tasks.BodyUnavailable || list.Jobs[0].Metadata != nil || list.Jobs[0].WebhookURL != "" {
		t.Errorf("listed: %+v, %v", list, err)
	}
	if j, err := s.Job(ctx, "acme", shut.ID); !errors.As(err, &sealed) {
		t.Errorf("read: %+v, %v", j, err)
	}
}

// An attempt of which nothing can be sealed is recorded without what its receiver said, and
// those of others beside it whole.
func TestAnAttemptIsRecordedWithoutItsTenantsKey(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	whole, s := sealing(t, rdb, "b", "lost"), sealing(t, rdb, "b")
	tells(t, whole, "acme")
	tells(t, s, "globex")
	swept, err := whole.SweepDeliveries(ctx)
	must(t, err)
	open, err := whole.OpenDeliveries(ctx, swept.Hand)
	must(t, err)
	var list []tasks.Settled
	for _, o := range open {
		list = append(list, tasks.Settled{
			Ticket: tasks.DeliveryTicket{ID: o.Delivery.ID, Fence: o.Delivery.Fence}, Tenant: o.Delivery.Tenant, Status: tasks.DeliveryPending, Delay: time.Minute, Counted: true,
			Attempt: tasks.DeliveryAttempt{Outcome: "http_error", Status: 500, Answer: "said"}, Body: []byte("body"),
		})
	}
	_, err = s.SettleDeliveries(ctx, list)
	must(t, err)
	for _, o := range open {
		d, err := whole.Delivery(ctx, o.Delivery.Tenant, o.Delivery.ID)
		want := map[string]string{"acme": "", "globex": "said"}[o.Delivery.Tenant]
		if err != nil || d.Attempts != 1 || len(d.Log) != 1 || d.Log[0].Status != 500 || d.Log[0].Answer != want {
			t.Errorf("%s: %+v, %v", o.Delivery.Tenant, d, err)
		}
	}
}

// What the release before kept of a delivery does not say whose it is.
func TestAnAttemptOfTheReleaseBeforeFindsItsTenant(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	s := sealing(t, rdb, "a")
	tells(t, s, "acme")
	swept, err := s.SweepDeliveries(ctx)
	must(t, err)
	open, err := s.OpenDeliveries(ctx, swept.Hand)
	must(t, err)
	_, err = s.SettleDeliveries(ctx, []tasks.Settled{
		{Ticket: tasks.DeliveryTicket{ID: open[0].Delivery.ID, Fence: open[0].Delivery.Fence}, Status: tasks.DeliveryExhausted, Counted: true, Attempt: tasks.DeliveryAttempt{Outcome: "http_error", Answer: "said"}, Body: []byte("body")},
		{Ticket: tasks.DeliveryTicket{ID: "dlv_gone", Fence: 1}, Status: tasks.DeliveryExhausted, Counted: true, Attempt: tasks.DeliveryAttempt{Answer: "said"}, Body: []byte("body")},
	})
	must(t, err)
	if d, err := s.Delivery(ctx, "acme", open[0].Delivery.ID); err != nil || d.Log[0].Answer != "said" {
		t.Errorf("%+v, %v", d, err)
	}
	if names := rdb.HKeys(ctx, "sluice:{s}:sks").Val(); len(names) != 1 {
		t.Errorf("there are keys of %q", names)
	}
}

// A worker makes sure of the key before anything is asked: an answer that could not be sealed
// could not be kept.
func TestTakeHasTheKeyBeforeAnAttemptBegins(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	plain := store.New(store.Config{Redis: rdb, Depth: map[string]int{pool: 8}})
	j := job("acme")
	k := submits(t, plain, j)[0]
	_, err := sealing(t, rdb, "lost").Sealed(ctx, "acme", "id", []byte("x"))
	must(t, err)
	if _, err := sealing(t, rdb, "b").Take(ctx, k); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("taken: %v", err)
	}
	got, err := plain.Job(ctx, "acme", j.ID)
	if err != nil || got.Attempts != 0 || got.Error == nil || got.Error.Code != tasks.BodyUnavailable {
		t.Errorf("%+v, %v", got, err)
	}
}

// tending runs TendKeys of a store until the test ends.
func tending(t *testing.T, s *store.Store, whom string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- s.TendKeys(ctx, whom) }()
	t.Cleanup(func() { cancel(); must(t, <-over) })
}

// A process that has a tenant's key at hand opens nothing with it a second after another has
// deleted it, and does not ask for it at each use before.
func TestADeletedKeyOpensNothingWithinASecond(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	s := sealing(t, rdb, "a")
	tending(t, s, "one")
	b, err := s.Sealed(ctx, "acme", "id", []byte("x"))
	must(t, err)
	must(t, sealing(t, rdb, "a").ForgetKey(ctx, "acme"))
	deleted := time.Now()
	redistest.Until(t, "what was sealed opens no more", func() bool {
		begun := time.Now()
		_, err := s.Opened(ctx, "acme", "id", b)
		if late := begun.Sub(deleted); err == nil && late > time.Second {
			t.Errorf("it is still opened %v later", late)
		}
		return err != nil
	})
}

// A key is used for a second after Redis has said that it is there, and no longer.
func TestAKeyIsUsedForASecond(t *testing.T) {
	t.Parallel()
	rdb, ctx, now := redistest.New(t), t.Context(), time.Now()
	s := store.New(store.Config{Redis: rdb, Now: func() time.Time { return now }, Seal: ringOf(t, "a")})
	b, err := s.Sealed(ctx, "acme", "id", []byte("x"))
	must(t, err)
	must(t, sealing(t, rdb, "a").ForgetKey(ctx, "acme"))
	now = now.Add(999 * time.Millisecond)
	if _, err := s.Opened(ctx, "acme", "id", b); err != nil {
		t.Errorf("it was asked for again: %v", err)
	}
	now = now.Add(time.Millisecond)
	var sealed *tasks.SealError
	if got, err := s.Opened(ctx, "acme", "id", b); !errors.As(err, &sealed) {
		t.Errorf("a second later it opens %q, %v", got, err)
	}
}

// The key of a job that a worker has in hand is at hand for as long as the call takes: its answer
// can be sealed for the disk when Redis is away at its end.
func TestAKeyIsAtHandForAsLongAsACallTakes(t *testing.T) {
	t.Parallel()
	server, now := redistest.Start(t, redistest.Options{}), time.Now()
	s := store.New(store.Config{Redis: server.Client(), Depth: map[string]int{pool: 8}, Now: func() time.Time { return now }, Seal: ringOf(t, "a")})
	k := submits(t, s, job("acme"))[0]
	take(t, s, k)
	k.Tenant = "acme"
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		now = now.Add(6 * time.Minute)
		_, err := s.Renew(t.Context(), []tasks.Ticket{k})
		must(t, err)
		must(t, s.TendKeys(over, "one")) // once
	}
	server.Kill()
	if _, err := s.Sealed(t.Context(), "acme", k.ID, []byte("answer")); err != nil {
		t.Error(err)
	}
	now = now.Add(11 * time.Minute)
	must(t, s.TendKeys(over, "one"))
	if _, err := s.Sealed(t.Context(), "acme", k.ID, []byte("answer")); err == nil {
		t.Error("a key that nobody needs stays at hand")
	}
}

// Redis that has lost a key, as a replica that was behind, has the next write make another one:
// nothing is sealed with what nobody could read again.
func TestAKeyThatRedisHasLostSealsNothingMore(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	s := sealing(t, rdb, "a")
	_, err := s.Sealed(ctx, "acme", "id", []byte("x"))
	must(t, err)
	tending(t, s, "one")
	must(t, rdb.Del(ctx, "sluice:{s}:sk:acme", "sluice:{s}:sks").Err())
	redistest.Until(t, "a new key seals", func() bool {
		b, err := s.Sealed(ctx, "acme", "id", []byte("y"))
		must(t, err)
		plain, err := sealing(t, rdb, "a").Opened(ctx, "acme", "id", b)
		return err == nil && string(plain) == "y"
	})
}

// A tenant that is being deleted gets no key any more, which would stay behind it; others go on.
func TestATenantThatLeavesGetsNoKey(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	s := sealing(t, rdb, "a")
	by := tasks.Act{At: time.Now(), By: "ada", Tenant: "ops", Action: "delete_tenant", Target: "acme"}
	shut := tells(t, s, "acme")
	tells(t, s, "globex")
	swept, err := s.SweepDeliveries(ctx)
	must(t, err)
	open, err := s.OpenDeliveries(ctx, swept.Hand)
	must(t, err)
	d, err := s.DeleteTenant(ctx, "acme", by)
	if err != nil || !d.Done {
		t.Fatalf("%+v, %v", d, err)
	}
	for name, of := range map[string]*store.Store{"this process": s, "another": sealing(t, rdb, "a")} {
		if _, err := of.Sealed(ctx, "acme", "id", []byte("x")); !errors.Is(err, tasks.ErrLeaving) || errors.Is(err, tasks.ErrUnavailable) {
			t.Errorf("%s seals: %v", name, err)
		}
		made, _, err := of.Create(ctx, tasks.Submission{Job: job("acme")}, tasks.Submission{Job: job("globex")})
		if err != nil || !errors.Is(made[0].Err, tasks.ErrLeaving) || made[1].Err != nil {
			t.Errorf("%s: submitted: %+v, %v", name, made, err)
		}
	}
	// What receivers said to it comes late, beside that of others.
	var late []tasks.Settled
	for _, o := range open {
		late = append(late, tasks.Settled{
			Ticket: tasks.DeliveryTicket{ID: o.Delivery.ID, Fence: o.Delivery.Fence}, Tenant: o.Delivery.Tenant, Status: tasks.DeliveryDelivered, Counted: true,
			Attempt: tasks.DeliveryAttempt{Outcome: "delivered", Status: 200, Answer: "said"}, Body: []byte("body"),
		})
	}
	_, err = s.SettleDeliveries(ctx, late)
	must(t, err)
	if page, err := s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "globex", Limit: 10}); err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].Status != tasks.DeliveryDelivered {
		t.Errorf("the other's delivery: %+v, %v", page, err)
	}
	left, err := rdb.Keys(ctx, "*acme*").Result()
	must(t, err)
	for _, key := range left {
		if strings.Contains(key, ":sk:") {
			t.Errorf("%s is left", key)
		}
	}
	if n := rdb.HLen(ctx, "sluice:{s}:sks").Val(); n != 1 {
		t.Errorf("%d tenants have keys", n)
	}
	if _, err := s.Job(ctx, "acme", shut.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("its job: %v", err)
	}
}

// Two processes that make a tenant's key at once have the same.
func TestTwoProcessesMakeOneKey(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	var all [8]struct {
		s *store.Store
		b []byte
	}
	var wait sync.WaitGroup
	for i := range all {
		all[i].s = sealing(t, rdb, "a")
		wait.Go(func() {
			var err error
			all[i].b, err = all[i].s.Sealed(ctx, "acme", "id", []byte("x"))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for i := range all {
		if b, err := all[i].s.Opened(ctx, "acme", "id", all[(i+1)%len(all)].b); err != nil || string(b) != "x" {
			t.Errorf("%q, %v", b, err)
		}
	}
}

// A process that lists no key takes nothing that others have sealed for what it stands for: its
// jobs and deliveries wait for one that has the keys.
func TestWithoutKeysNothingSealedIsTakenForPlain(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	s := sealing(t, rdb, "a")
	plain := store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 8}, NewSecret: func() string { return "whsec_2" }})
	_, err := s.CreateEndpoint(ctx, tasks.Endpoint{ID: "whe_1", Tenant: "acme", URL: "https://e.example/", Events: []string{"job.succeeded"}, Signature: "v1", Keys: tasks.SigningKeys{Secret: "whsec_1"}})
	must(t, err)
	done := tells(t, s, "acme")
	waits := job("acme")
	k := submits(t, s, waits)[0]
	var sealed *tasks.SealError
	if _, err := plain.Job(ctx, "acme", done.ID); !errors.As(err, &sealed) {
		t.Errorf("read: %v", err)
	}
	if _, err := plain.Endpoint(ctx, "acme", "whe_1"); !errors.As(err, &sealed) {
		t.Errorf("the endpoint: %v", err)
	}
	if _, err := plain.Take(ctx, k); !errors.Is(err, tasks.ErrLost) {
		t.Errorf("taken: %v", err)
	}
	if j, err := s.Job(ctx, "acme", waits.ID); err != nil || j.Status.Final() || j.Attempts != 0 || j.Error == nil || j.Error.Code != tasks.BodyUnavailable {
		t.Errorf("the job that waits: %+v, %v", j, err)
	}
	swept, err := plain.SweepDeliveries(ctx)
	must(t, err)
	if open, err := plain.OpenDeliveries(ctx, swept.Hand); err != nil || len(swept.Hand) != 2 || len(open) > 0 {
		t.Errorf("of %d deliveries %d are opened, %v", len(swept.Hand), len(open), err)
	}
	page, err := s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Limit: 10})
	must(t, err)
	for _, d := range page.Deliveries {
		if d.Status != tasks.DeliveryPending || d.Attempts != 0 {
			t.Errorf("%+v", d)
		}
	}
}

// A new tenant's key is wrapped by a master key that every living process has.
func TestAMasterKeyWrapsWhenEverybodyHasIt(t *testing.T) {
	t.Parallel()
	rdb, ctx := redistest.New(t), t.Context()
	behind, ahead := sealing(t, rdb, "old"), sealing(t, rdb, "old", "new")
	wrapper := func(tenant string) string {
		_, err := ahead.Sealed(ctx, tenant, "id", []byte("x"))
		must(t, err)
		return rdb.HGet(ctx, "sluice:{s}:sk:"+tenant, "m").Val()
	}
	must(t, ahead.TellKeys(ctx, "ahead"))
	must(t, behind.TellKeys(ctx, "behind"))
	if got := wrapper("t1"); got != "old" {
		t.Errorf("while one has the old one alone: wrapped by %s", got)
	}
	if list, err := ahead.Unready(ctx); err != nil || len(list) != 1 || list[0] != "behind" {
		t.Errorf("unready: %q, %v", list, err)
	}
	must(t, sealing(t, rdb, "old", "new").TellKeys(ctx, "behind"))
	if got := wrapper("t2"); got != "new" {
		t.Errorf("when all have it: wrapped by %s", got)
	}
	if list, err := ahead.Unready(ctx); err != nil || len(list) > 0 {
		t.Errorf("unready: %q, %v", list, err)
	}
}

// A chunk of a file opens in its own place and in no other's.
func TestChunksOfAFileDoNotOpenInEachOthersPlace(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"", "file"} {
		t.Run("in "+at, func(t *testing.T) {
			t.Parallel()
			rdb, ctx := redistest.New(t), t.Context()
			c := store.Config{Redis: rdb, ResultTTL: time.Hour, Seal: ringOf(t, "a")}
			if at != "" {
				b, err := bodies.Open(bodies.Config{URL: "file://" + t.TempDir()})
				must(t, err)
				t.Cleanup(b.Close)
				c.Bodies = b
			}
			s, file := store.New(c), strings.Replace(store.NewID("file"), "_", "-", 1)
			for _, text := range []string{"one", "two"} {
				must(t, s.AddContent(ctx, "acme", file, []byte(text), tasks.Limits{}))
			}
			list := "sluice:{s}:part:" + file
			chunks := rdb.LRange(ctx, list, 0, -1).Val()
			if b, err := s.Content(ctx, file, 1); err != nil || string(b) != "two" {
				t.Fatalf("%s, %v", b, err)
			}
			must(t, rdb.LSet(ctx, list, 0, chunks[1]).Err())
			must(t, rdb.LSet(ctx, list, 1, chunks[0]).Err())
			for i := range chunks {
				var sealed *tasks.SealError
				if b, err := s.Content(ctx, file, i); !errors.As(err, &sealed) {
					t.Errorf("swapped, chunk %d is %q, %v", i, b, err)
				}
			}
		})
	}
}

// A sealed job's life takes the commands of any other, and no more.
func TestSealingCostsNoCommand(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, redistest.Options{}).Client()
	stages := func(s *store.Store) map[string]int {
		calls := map[string]int{}
		for range 2 { // the first loads the scripts, and makes the key
			oneLife(t, s, func(name string, act func() error) {
				before := commands(t, rdb)
				must(t, act())
				calls[name] = commands(t, rdb) - before
			})
		}
		return calls
	}
	now := time.Now() // at which it stands: a key is at hand throughout, as it is where somebody tends it
	c := store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 1}, Rates: oneRate, Now: func() time.Time { return now }}
	plain := stages(store.New(c))
	c.Seal = ringOf(t, "a")
	for name, n := range stages(store.New(c)) {
		if n > plain[name] {
			t.Errorf("%s takes %d commands sealed, %d in plain", name, n, plain[name])
		}
	}
}

// A process that lists keys and seals nothing does not ask for one at each Idempotency-Key.
func TestKeysThatSealNothingCostNoCommand(t *testing.T) {
	t.Parallel()
	rdb, now := redistest.Start(t, redistest.Options{}).Client(), time.Now()
	c := store.Config{Redis: rdb, Now: func() time.Time { return now }, Seal: ringOf(t, "a")}
	reads := func() (n int) {
		for _, m := range stat.FindAllStringSubmatch(rdb.Info(t.Context(), "commandstats").Val(), -1) {
			if m[1] == "hmget" {
				n, _ = strconv.Atoi(m[2])
			}
		}
		return n
	}
	cost := func(plain bool) (n int) {
		c.Plain = plain
		s := store.New(c)
		for range 3 { // the first loads the script, and makes the key
			before := reads()
			_, _, err := s.Create(t.Context(), tasks.Submission{Job: job("acme"), Key: store.NewID("key"), Fingerprint: "print"})
			must(t, err)
			n = reads() - before
		}
		return n
	}
	cost(true) // among few jobs a submit reads less
	off := cost(true)
	if on := cost(false); off != on {
		t.Errorf("%d reads where nothing is sealed, %d where all is", off, on)
	}
}

// commands is how many commands Redis was called with so far, in scripts or out of them.
func commands(t *testing.T, rdb *redis.Client) int {
	t.Helper()
	_, calls := spent(t, rdb)
	return calls
}
