package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

const canary = "Canary7f3b"

// secretive is a job of which everything that a caller chooses holds the canary.
func secretive() tasks.Job {
	j := job("acme")
	j.Request.Body = []byte(`"` + canary + `"`)
	j.Metadata = map[string]string{"k": canary}
	return j
}

// hook makes an endpoint that wants results.
func hook(t *testing.T, s *store.Store) tasks.Endpoint {
	t.Helper()
	e, err := s.CreateEndpoint(t.Context(), tasks.Endpoint{
		ID: store.NewID("whe"), Tenant: "acme", URL: "https://example.com", Events: []string{"job.succeeded"}, IncludeResult: true, Signature: "v1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// succeeds stores a job under a key and has it answered, all by the canary.
func succeeds(t *testing.T, s *store.Store, key string) tasks.Job {
	t.Helper()
	ctx := t.Context()
	made, tickets, err := s.Create(ctx, tasks.Submission{Job: secretive(), Key: key, Fingerprint: "f"})
	if err != nil || made[0].Err != nil || len(tickets) != 1 {
		t.Fatalf("create: %v, %+v, %v", err, made, tickets)
	}
	take(t, s, tickets[0])
	if err := s.Listen(ctx, made[0].Job.ID); err != nil {
		t.Fatal(err)
	}
	started := start(t, s, tickets[0])
	if _, err := s.Append(ctx, tickets[0], started.Call, 0, canary); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.AppendEvents(ctx, tickets[0], started.Call, 0, []byte(canary), tasks.StreamOpen); err != nil {
		t.Fatal(err)
	}
	how := won
	how.Result = []byte(`{"text":"` + canary + `"}`)
	if _, err := s.End(ctx, tickets[0], how); err != nil {
		t.Fatal(err)
	}
	if err := s.KeepAnswer(ctx, "acme", "digest", made[0].Job.ID, how.Result, time.Hour); err != nil {
		t.Fatal(err)
	}
	return made[0].Job
}

// attempted settles every delivery that is ready, as one whose receiver said
// again what it was sent, and returns how many they were.
func attempted(t *testing.T, s *store.Store, status tasks.DeliveryStatus, between func()) int {
	t.Helper()
	swept, err := s.SweepDeliveries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open, err := s.OpenDeliveries(t.Context(), swept.Hand)
	if err != nil {
		t.Fatal(err)
	}
	if between != nil {
		between()
	}
	var list []tasks.Settled
	for _, o := range open {
		e := tasks.Settled{
			Ticket: tasks.DeliveryTicket{ID: o.Delivery.ID, Fence: o.Delivery.Fence}, Status: status, Counted: true, Delay: time.Hour, Reason: "http_5xx",
			Attempt: tasks.DeliveryAttempt{At: time.Now(), Outcome: "http_5xx", Status: 500, Latency: 123456789, Answer: `","answer":"` + canary + "\n"},
		}
		if o.Job != nil {
			e.Body = o.Job.Result
		}
		list = append(list, e)
	}
	for len(list) > 0 {
		n := min(64, len(list))
		if _, err := s.SettleDeliveries(t.Context(), list[:n]); err != nil {
			t.Fatal(err)
		}
		list = list[n:]
	}
	return len(open)
}

func nothingHolds(t *testing.T, rdb *redis.Client, text string) {
	t.Helper()
	for _, key := range redistest.Holding(t, rdb, text) {
		t.Errorf("%s still holds it", key)
	}
}

func TestDeletingForgetsEveryCopy(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	hook(t, s)
	j := succeeds(t, s, canary)
	if err := s.SaveAnswer(ctx, "acme", canary, j.ID, []byte(canary)); err != nil {
		t.Fatal(err)
	}
	if n := attempted(t, s, tasks.DeliveryExhausted, nil); n != 1 {
		t.Fatalf("%d deliveries, want 1", n)
	}
	if held := redistest.Holding(t, rdb, canary); len(held) < 5 {
		t.Fatalf("the test is void: only %q hold it", held)
	}
	if err := s.Delete(ctx, "acme", j.ID); err != nil {
		t.Fatal(err)
	}
	nothingHolds(t, rdb, canary)

	// Its event stays listed, with its attempts, and is not sent again.
	page, err := s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Limit: 2})
	if err != nil || len(page.Deliveries) != 1 {
		t.Fatalf("deliveries: %+v, %v", page, err)
	}
	d := page.Deliveries[0]
	if d.Object != j.ID || len(d.Log) != 1 || d.Log[0].Status != 500 || d.Log[0].Latency != 123456789 || d.Log[0].Answer != "" {
		t.Errorf("the delivery is %+v", d)
	}
	if _, err := s.Redeliver(ctx, "acme", d.ID); !errors.Is(err, tasks.ErrDeleted) {
		t.Errorf("redeliver: %v, want ErrDeleted", err)
	}
	if n, err := s.RedeliverRange(ctx, tasks.Resend{Tenant: "acme", Endpoint: d.Endpoint, Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Delivered: true}, nil); n.Sent != 0 || err != nil {
		t.Errorf("redeliver all: %+v, %v; want none", n, err)
	}
	// The answer to the submit comes too late to be kept.
	if err := s.SaveAnswer(ctx, "acme", canary, j.ID, []byte(canary)); err != nil {
		t.Fatal(err)
	}
	nothingHolds(t, rdb, canary)
}

// An attempt that was under way while the job was deleted brings nothing back.
func TestAnAttemptUnderWayBringsNothingOfADeletedJobBack(t *testing.T) {
	t.Parallel()
	for _, status := range []tasks.DeliveryStatus{tasks.DeliveryPending, tasks.DeliveryDelivered, tasks.DeliveryExhausted} {
		s, rdb := open(t, 4)
		hook(t, s)
		j := succeeds(t, s, "")
		n := attempted(t, s, status, func() {
			if err := s.Delete(t.Context(), "acme", j.ID); err != nil {
				t.Fatal(err)
			}
		})
		if n != 1 {
			t.Fatalf("%d deliveries, want 1", n)
		}
		nothingHolds(t, rdb, canary)
		if status != tasks.DeliveryPending {
			continue
		}
		// What has not arrived is still to be told, from what the delivery knows.
		rdb.ZAddXX(t.Context(), "sluice:{s}:wdue", redis.Z{Score: 1, Member: due(t, rdb)})
		swept, err := s.SweepDeliveries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open, err := s.OpenDeliveries(t.Context(), swept.Hand)
		if err != nil || len(open) != 1 || open[0].Job != nil || open[0].Delivery.Body != nil || open[0].Delivery.Object != j.ID {
			t.Errorf("to be sent: %+v, %v; want the event and no job", open, err)
		}
	}
}

// What a worker still has in hand of a job that was canceled and deleted meanwhile, its
// text, its end and the answer that would be kept, comes too late to leave anything.
func TestACallUnderWayBringsNothingOfADeletedJobBack(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	hook(t, s)
	made, tickets, err := s.Create(ctx, tasks.Submission{Job: secretive(), Key: canary, Fingerprint: "f"})
	if err != nil || made[0].Err != nil || len(tickets) != 1 {
		t.Fatalf("create: %v, %+v, %v", err, made, tickets)
	}
	id := made[0].Job.ID
	take(t, s, tickets[0])
	if err := s.Listen(ctx, id); err != nil {
		t.Fatal(err)
	}
	started := start(t, s, tickets[0])
	if wanted, err := s.Append(ctx, tickets[0], started.Call, 0, canary); err != nil || !wanted {
		t.Fatalf("append: %v, %v", wanted, err)
	}
	if _, err := s.Cancel(ctx, "acme", id); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "acme", id); err != nil {
		t.Fatal(err)
	}
	nothingHolds(t, rdb, canary)

	if wanted, err := s.Append(ctx, tickets[0], started.Call, len(canary), canary); err != nil || wanted {
		t.Errorf("text that comes late: wanted %v, %v", wanted, err)
	}
	how := won
	how.Result = []byte(`{"text":"` + canary + `"}`)
	if _, err := s.End(ctx, tickets[0], how); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("an end that comes late: %v, want ErrNotFound", err)
	}
	if err := s.KeepAnswer(ctx, "acme", "digest", id, how.Result, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveAnswer(ctx, "acme", canary, id, []byte(canary)); err != nil {
		t.Fatal(err)
	}
	nothingHolds(t, rdb, canary)
}

func due(t *testing.T, rdb *redis.Client) string {
	t.Helper()
	ids, err := rdb.ZRange(t.Context(), "sluice:{s}:wdue", 0, -1).Result()
	if err != nil || len(ids) != 1 {
		t.Fatalf("waiting for another try: %v, %v; want one", ids, err)
	}
	return ids[0]
}

// A record that has outlived its time takes its copies with it, and what it was
// told by can still be told.
func TestWhatOutlivesItsTimeTakesItsCopiesWithIt(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	hook(t, s)
	j := succeeds(t, s, "k")
	if err := s.SaveAnswer(ctx, "acme", "k", j.ID, []byte(canary)); err != nil {
		t.Fatal(err)
	}
	attempted(t, s, tasks.DeliveryExhausted, nil)
	rdb.ZAdd(ctx, "sluice:{s}:gone", redis.Z{Score: 1, Member: "acme|" + j.ID})
	if _, err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	nothingHolds(t, rdb, canary)
	page, err := s.Deliveries(ctx, tasks.DeliveryFilter{Tenant: "acme", Limit: 2})
	if err != nil || len(page.Deliveries) != 1 {
		t.Fatalf("deliveries: %+v, %v", page, err)
	}
	if _, err := s.Redeliver(ctx, "acme", page.Deliveries[0].ID); err != nil {
		t.Errorf("redeliver: %v", err)
	}
}

// A key stands for its job until that is deleted: then its repeat is a new job.
// One that has outlived its time is not run again, nor is its answer kept.
func TestAKeyOfADeletedJobIsFree(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	submit := func() store.Created {
		t.Helper()
		made, _, err := s.Create(ctx, tasks.Submission{Job: job("acme"), Key: "k", Fingerprint: "f"})
		if err != nil || made[0].Err != nil {
			t.Fatalf("create: %v, %+v", err, made)
		}
		return made[0]
	}
	first := succeeds(t, s, "k")
	if err := s.SaveAnswer(ctx, "acme", "k", first.ID, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "acme", first.ID); err != nil {
		t.Fatal(err)
	}
	if b, prior, err := s.OpenBatch(ctx, store.NewID("batch"), "acme", "k"); err != nil || prior != nil {
		t.Errorf("a batch under its key: %+v, %v; want a new one", prior, err)
	} else if err := s.AbortBatch(ctx, b.ID); err != nil {
		t.Fatal(err)
	}
	second := submit()
	if second.Replayed {
		t.Errorf("submitted again: %+v; want a new job", second)
	}
	// The first one's answer, come late, is not the second one's.
	if err := s.SaveAnswer(ctx, "acme", "k", first.ID, []byte("late")); err != nil {
		t.Fatal(err)
	}
	if again := submit(); !again.Replayed || again.Job.ID != second.Job.ID || again.Answer != nil {
		t.Errorf("its repeat: %+v; want the second job, and no answer of the first", again)
	}
	if err := s.SaveAnswer(ctx, "acme", "k", second.Job.ID, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Cancel(ctx, "acme", second.Job.ID); err != nil {
		t.Fatal(err)
	}
	rdb.ZAdd(ctx, "sluice:{s}:gone", redis.Z{Score: 1, Member: "acme|" + second.Job.ID})
	if _, err := s.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if again := submit(); !again.Replayed || again.Job.ID != second.Job.ID || again.Answer != nil {
		t.Errorf("a repeat once the job has outlived its time: %+v; want that job's id, and no answer", again)
	}
	if ttl := rdb.PTTL(ctx, "sluice:{s}:i:acme:k").Val(); ttl <= 0 || ttl > 24*time.Hour {
		t.Errorf("the key lives %v, want up to a day", ttl)
	}
}

// What was sent to an endpoint goes with it, however much that is.
func TestDeletingAnEndpointForgetsWhatItWasSent(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, 4)
	ctx := t.Context()
	kept, e := hook(t, s), hook(t, s)
	const n = 450
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range n {
			id := fmt.Sprintf("dlv_%019d", i)
			p.HSet(ctx, "sluice:{s}:d:"+id, "t", "acme", "w", e.ID, "y", "job.succeeded", "o", "job_1", "s", "exhausted", "ct", 1, "b", canary)
			p.ZAdd(ctx, "sluice:{s}:we:"+e.ID, redis.Z{Member: id})
			p.ZAdd(ctx, "sluice:{s}:wt:acme", redis.Z{Member: id})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	j := succeeds(t, s, "")
	attempted(t, s, tasks.DeliveryPending, func() {
		if err := s.DeleteEndpoint(ctx, "zoe", e.ID); !errors.Is(err, tasks.ErrNotFound) {
			t.Errorf("by another tenant: %v, want ErrNotFound", err)
		}
		if err := s.DeleteEndpoint(ctx, "acme", e.ID); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := s.Endpoint(ctx, "acme", e.ID); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("the endpoint: %v, want ErrNotFound", err)
	}
	bodies := 0
	for _, id := range rdb.ZRange(ctx, "sluice:{s}:wt:acme", 0, -1).Val() {
		h := rdb.HMGet(ctx, "sluice:{s}:d:"+id, "w", "b").Val()
		if h[1] == nil {
			continue
		}
		if h[0] != kept.ID {
			t.Errorf("%s still has what was sent to the endpoint", id)
		}
		bodies++
	}
	if bodies != 1 {
		t.Errorf("%d bodies are kept for the other endpoint, want 1", bodies)
	}
	if err := s.Delete(ctx, "acme", j.ID); err != nil {
		t.Fatal(err)
	}
	nothingHolds(t, rdb, canary)
}
