package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// estate is a store in which tenants have all that one can have.
type estate struct {
	*testing.T
	*store.Store
	rdb *redis.Client
}

func newEstate(t *testing.T) *estate {
	rdb := redistest.New(t)
	return &estate{t, store.New(store.Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{pool: 20}, Rates: oneRate, NewSecret: func() string { return "whsec_1" }}), rdb}
}

var (
	byAda    = tasks.Act{By: "ada", Tenant: "ops", Via: "api", Action: "delete_tenant", Target: "acme", At: time.UnixMilli(1e12)}
	byTokens = tasks.Limits{TokensPerDay: 1e9, QueuedBytes: 1e9, CostPerDay: 1e9}
)

// submission is a job that has all that a job can have.
func (e *estate) submission(tenant, id string) tasks.Submission {
	j := job(tenant)
	j.ID, j.Tenant, j.WebhookURL, j.Reserved, j.Bytes = id, tenant, "https://own.example/in", 10, 7
	j.Metadata = map[string]string{"canary": tenant}
	j.Deadline = time.Now().Add(time.Hour)
	return tasks.Submission{Job: j, Key: "key of " + id, Fingerprint: "f", Limits: byTokens, Caller: &tasks.Call{Digest: "d"}}
}

// fill gives a tenant jobs that wait, run and ended, a batch that is accepted, one that is not all unfolded, one that is being
// written, an endpoint with deliveries, signing keys, a file, content without one, tokens, settings and a ledger.
func (e *estate) fill(tenant string) {
	e.Helper()
	ctx := e.Context()
	_, err := e.CreateEndpoint(ctx, tasks.Endpoint{ID: "whe_" + tenant, Tenant: tenant, URL: "https://a.example/", MaxPerSecond: 5, Events: []string{"job.failed", "job.succeeded", "batch.completed"}})
	must(e.T, err)
	_, err = e.TenantKeys(ctx, tenant)
	must(e.T, err)
	var next []tasks.Ticket
	for i := range 5 {
		made, out, err := e.Create(ctx, e.submission(tenant, fmt.Sprintf("job_%s_%d", tenant, i)))
		must(e.T, errors.Join(err, made[0].Err))
		next = append(next, out...)
	}
	for i, k := range next[:min(2, len(next))] {
		k.Asks = tasks.Asked{Account: "a", Model: "m", AtMost: 1000, Priced: true}
		_, err := e.Take(ctx, k)
		must(e.T, err)
		_, _, err = e.Start(ctx, k)
		must(e.T, err)
		if i == 0 {
			_, err = e.End(ctx, k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Usage: &tasks.Usage{InputTokens: 3}, Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Cost: &tasks.Cost{Amount: 9}}})
			must(e.T, err)
			must(e.T, e.SaveAnswer(ctx, tenant, "key of "+k.ID, k.ID, []byte(`{"canary":1}`)))
		}
	}
	_, err = e.Cancel(ctx, tenant, "job_"+tenant+"_2")
	must(e.T, err)
	for _, batch := range []string{"batch_done_", "batch_half_", "batch_open_"} {
		id := batch + tenant
		_, _, err := e.OpenBatch(ctx, id, tenant, "key of "+id)
		must(e.T, err)
		var lines []tasks.Job
		for i := range 70 {
			j := e.submission(tenant, fmt.Sprintf("job_%s_%s_%02d", tenant, batch, i)).Job
			j.Batch, j.Line = id, i+1
			lines = append(lines, j)
		}
		must(e.T, e.StageBatch(ctx, id, lines, byTokens))
		if batch != "batch_open_" {
			_, err = e.CommitBatch(ctx, id, tasks.BatchCommit{Fingerprint: "f", Limits: byTokens})
			must(e.T, err)
			left, _, err := e.Unfold(ctx, id)
			for batch == "batch_done_" && left > 0 && err == nil {
				left, _, err = e.Unfold(ctx, id)
			}
			must(e.T, err)
		}
	}
	must(e.T, e.AddContent(ctx, tenant, "file-"+tenant, []byte("canary"), byTokens))
	must(e.T, e.PutDocument(ctx, tasks.Document{ID: "file-" + tenant, Tenant: tenant, Kind: tasks.FileDocument, Body: []byte(`{}`), Expires: time.Hour}))
	must(e.T, e.AddContent(ctx, tenant, "file-never-"+tenant, []byte("canary"), byTokens))
	_, err = e.ClaimDocument(ctx, tasks.Document{ID: "upload-" + tenant, Tenant: tenant, Kind: tasks.UploadDocument, Body: []byte("a"), Expires: time.Hour})
	must(e.T, err)
	must(e.T, e.SaveToken(ctx, tasks.Token{ID: "tok_" + tenant, Tenant: tenant, Expires: time.Now().Add(time.Hour)}, byAda))
	must(e.T, e.SetTenant(ctx, tenant, tasks.TenantSettings{Weight: ptr(int64(3))}, 3, tasks.Places{Tenant: 4}, byAda))
	_, err = e.ReserveKey(ctx, tenant, "key of a retry", "f", "bulk_1")
	must(e.T, err)
	_, err = e.OpenCall(ctx, tasks.Call{Tenant: tenant, ID: "job_x", Digest: "e"})
	must(e.T, err)
}

// load are how many jobs of the pool wait and run.
func (e *estate) load() string {
	e.Helper()
	l, err := e.Load(e.Context(), pool)
	must(e.T, err)
	return fmt.Sprint(l.Queued, " and ", l.Running)
}

// has are the keys that name a tenant, or whose value does; but those that keep nothing of it.
func (e *estate) has(tenant string) (keys []string) {
	e.Helper()
	ctx := e.Context()
	all, err := e.rdb.Keys(ctx, "*").Result()
	must(e.T, err)
	for _, key := range all {
		name := strings.TrimPrefix(key, "sluice:{s}:")
		if strings.HasPrefix(name, "acts") || strings.HasPrefix(name, "rev") || strings.HasPrefix(name, "op:") {
			continue // the audit, tokens that are revoked, and answers of a minute to who repeats an operation
		}
		dump, err := e.rdb.Dump(ctx, key).Result()
		must(e.T, err)
		var value any = dump
		switch kind := e.rdb.Type(ctx, key).Val(); kind {
		case "hash":
			value = e.rdb.HGetAll(ctx, key).Val()
		case "zset":
			value = e.rdb.ZRange(ctx, key, 0, -1).Val()
		case "list":
			value = e.rdb.LRange(ctx, key, 0, -1).Val()
		case "string":
			value = e.rdb.Get(ctx, key).Val()
		}
		if text := fmt.Sprint(name, " ", value); strings.Contains(text, tenant) {
			keys = append(keys, text)
		}
	}
	return keys
}

// All that a tenant has goes, another's stays, and the name begins anew.
func TestADeletedTenantLeavesNothing(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	e.fill("other")
	before, had := len(e.has("other")), e.load()
	e.fill("acme")
	d, err := e.DeleteTenant(t.Context(), "acme", byAda)
	must(t, err)
	if want := (tasks.Departure{Tenant: "acme", Done: true, Jobs: 145, Batches: 2, Documents: 1, Endpoints: 1, Deliveries: d.Deliveries, Tokens: 1}); d != want || d.Deliveries == 0 {
		t.Errorf("deleted %+v, want %+v", d, want)
	}
	for _, key := range e.has("acme") {
		t.Errorf("left: %.200s", key)
	}
	if after := len(e.has("other")); after != before {
		t.Errorf("another tenant has %d keys of %d", after, before)
	}
	if load := e.load(); load != had {
		t.Errorf("the pool has %s jobs, and had %s before the tenant came", load, had)
	}
	page, err := e.Acts(t.Context(), "", 2)
	must(t, err)
	if last := page.Acts[0]; last.Action != "tenant_deleted" || last.By != "ada" || last.Tenant != "ops" || !strings.Contains(last.Reason, "145 jobs") {
		t.Errorf("the audit has %+v", last)
	}
	if revoked, err := e.Revoked(t.Context(), 0); err != nil || len(revoked.List) != 1 || revoked.List[0].ID != "tok_acme" {
		t.Errorf("revoked %+v, %v", revoked, err)
	}
	made, _, err := e.Create(t.Context(), e.submission("acme", "job_acme_0"))
	must(t, err)
	if made[0].Err != nil || made[0].Replayed {
		t.Errorf("under the same id and key, the name's next job is %+v", made[0])
	}
	again, err := e.DeleteTenant(t.Context(), "acme", byAda) // a repeat is one of its own
	if must(t, err); again.Jobs != 1 || !again.Done {
		t.Errorf("a second deletion deleted %+v", again)
	}
	if again, err = e.DeleteTenant(t.Context(), "nobody", byAda); err != nil || !again.Done || again.Jobs != 0 {
		t.Errorf("the deletion of nobody: %+v, %v", again, err)
	}
}

// From the first moment of its deletion nothing of a tenant is taken in, whatever the door.
func TestNothingIsTakenInOfATenantThatIsBeingDeleted(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	e.fill("acme")
	must(t, e.CloseTenant(t.Context(), "acme", byAda))
	ctx := t.Context()
	limits := tasks.Limits{}
	line := e.submission("acme", "job_late").Job
	line.Batch, line.Line = "batch_open_acme", 71
	for door, try := range map[string]func() error{
		"a submit": func() error {
			made, _, err := e.Create(ctx, e.submission("acme", "job_new"))
			return errors.Join(err, made[0].Err)
		},
		"a submit once more": func() error {
			made, _, err := e.Create(ctx, e.submission("acme", "job_acme_1"))
			return errors.Join(err, made[0].Err)
		},
		"a batch":        func() error { _, _, err := e.OpenBatch(ctx, "batch_new", "acme", ""); return err },
		"a batch's line": func() error { return e.StageBatch(ctx, "batch_open_acme", []tasks.Job{line}, limits) },
		"a batch's end": func() error {
			_, err := e.CommitBatch(ctx, "batch_open_acme", tasks.BatchCommit{Fingerprint: "f"})
			return err
		},
		"a retry": func() error { _, _, err := e.Requeue(ctx, "acme", "job_acme_2", limits); return err },
		"many retries": func() error {
			_, err := e.RequeueAll(ctx, tasks.Selection{Tenant: "acme", IDs: []string{"job_acme_2"}}, limits, func([]tasks.Ticket) {})
			return err
		},
		"a key":  func() error { _, err := e.ReserveKey(ctx, "acme", "new", "f", "bulk_2"); return err },
		"a file": func() error { return e.AddContent(ctx, "acme", "file-new", []byte("a"), limits) },
		"its end": func() error {
			return e.PutDocument(ctx, tasks.Document{ID: "file-new", Tenant: "acme", Kind: tasks.FileDocument, Expires: time.Hour})
		},
		"an upload": func() error {
			_, err := e.ClaimDocument(ctx, tasks.Document{ID: "upload-new", Tenant: "acme", Kind: tasks.UploadDocument, Expires: time.Hour})
			return err
		},
		"an endpoint": func() error {
			_, err := e.CreateEndpoint(ctx, tasks.Endpoint{ID: "whe_new", Tenant: "acme", URL: "https://a.example/", Events: []string{"job.failed"}})
			return err
		},
		"a secret": func() error {
			_, err := e.RotateKeys(ctx, "acme", "", tasks.SigningKeys{Secret: "whsec_2"})
			return err
		},
		"a token": func() error {
			return e.SaveToken(ctx, tasks.Token{ID: "tok_new", Tenant: "acme", Expires: time.Now().Add(time.Hour)}, byAda)
		},
		"a limit": func() error {
			return e.SetTenant(ctx, "acme", tasks.TenantSettings{Weight: ptr(int64(2))}, 2, tasks.Places{Tenant: 0}, byAda)
		},
	} {
		if err := try(); !errors.Is(err, tasks.ErrLeaving) {
			t.Errorf("%s: %v, want %v", door, err, tasks.ErrLeaving)
		}
	}
	if made, _, err := e.Create(ctx, e.submission("other", "job_other")); err != nil || made[0].Err != nil {
		t.Errorf("another tenant's submit: %v, %v", err, made[0].Err)
	}
	before := e.rdb.ZCard(ctx, "sluice:{s}:wt:acme").Val()
	_, err := e.Cancel(ctx, "acme", "job_acme_3")
	must(t, err)
	if after := e.rdb.ZCard(ctx, "sluice:{s}:wt:acme").Val(); after != before {
		t.Errorf("its receivers are told: %d deliveries after %d", after, before)
	}
	must(t, e.rdb.ZAdd(ctx, "sluice:{s}:bye", redis.Z{Member: "acme"}).Err()) // nobody has made a step for long
	must(t, e.GoOnDeleting(ctx))
	for _, key := range e.has("acme") {
		t.Errorf("left by who went on: %.200s", key)
	}
}

// Submits under way while their tenant is deleted are refused, or gone with the rest.
func TestSubmitsBesideADeletionLeaveNothing(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	e.fill("acme")
	over, done := make(chan struct{}), make(chan error)
	for worker := range 4 {
		go func() {
			for i := 0; ; i++ {
				made, _, err := e.Create(t.Context(), e.submission("acme", fmt.Sprintf("job_beside_%d_%d", worker, i)))
				select {
				case <-over:
					done <- nil
					return
				default:
				}
				if err != nil || errors.Is(made[0].Err, tasks.ErrLeaving) {
					done <- err
					return
				}
			}
		}()
	}
	_, err := e.DeleteTenant(t.Context(), "acme", byAda)
	close(over)
	must(t, err)
	for range 4 {
		must(t, <-done)
	}
	left := 0
	for _, key := range e.has("acme") {
		if !strings.Contains(key, "job_beside_") { // who came behind the end is of the new name
			left++
			t.Logf("left: %.200s", key)
		}
	}
	if _, err := e.DeleteTenant(t.Context(), "acme", byAda); err != nil || len(e.has("acme")) != 0 {
		t.Errorf("a second deletion: %v, left %d", err, len(e.has("acme")))
	}
}

// A deletion that could not begin is no deletion.
func TestADeletionThatCouldNotBegin(t *testing.T) {
	t.Parallel()
	e := newEstate(t)
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if d, err := e.DeleteTenant(ctx, "acme", byAda); err == nil || d != (tasks.Departure{}) {
		t.Errorf("got %+v, %v", d, err)
	}
}
