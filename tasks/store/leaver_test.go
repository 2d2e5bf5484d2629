package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// Who goes on with a deletion that another has ended leaves the name's new owner alone.
func TestADeletionThatIsOverDeletesNothingMore(t *testing.T) {
	t.Parallel()
	ctx, rdb := t.Context(), redistest.New(t)
	s := New(Config{Redis: rdb, ResultTTL: time.Hour, Depth: map[string]int{"claude": 2}, NewSecret: func() string { return "whsec_1" }})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	by := tasks.Act{At: time.Now(), By: "ada", Tenant: "ops", Action: "delete_tenant", Target: "acme"}
	fill := func() {
		made, _, err := s.Create(ctx, tasks.Submission{Key: "again", Job: tasks.Job{
			ID: NewID("job"), Tenant: "acme", Pool: "claude", Model: "claude-x", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"hi"`), MaxTokens: 16},
		}})
		ok(err)
		ok(made[0].Err)
		ok(s.SaveToken(ctx, tasks.Token{ID: NewID("tok"), Tenant: "acme", Name: "ci", Created: time.Now(), Expires: time.Now().Add(time.Hour)}, by))
		ok(s.PutDocument(ctx, tasks.Document{ID: "file-" + NewID("x"), Tenant: "acme", Kind: tasks.FileDocument, Body: []byte(`{}`), Expires: time.Hour}))
		_, err = s.CreateEndpoint(ctx, tasks.Endpoint{ID: NewID("whe"), Tenant: "acme", URL: "https://in.example/", Events: []string{"job.failed"}, Signature: "v1"})
		ok(err)
	}
	fill()
	ok(s.CloseTenant(ctx, "acme", by))
	at, err := rdb.HGet(ctx, s.keys.departure("acme"), "at").Result()
	ok(err)
	late := leaver{"acme", at}
	ok(s.still(ctx, late))
	_, err = s.DeleteTenant(ctx, "acme", by)
	ok(err)
	fill()
	had, err := rdb.DBSize(ctx).Result()
	ok(err)
	for name, step := range map[string]func(context.Context, leaver) error{
		"tokens": s.revokeAll, "endpoints": s.endpointsLeave, "jobs": s.jobsLeave, "batches": s.batchesLeave, "deliveries": s.deliveriesLeave,
		"documents": s.documentsLeave, "contents": s.contentsLeave, "names": s.namesLeave, "key": s.keyLeaves, "all": s.departAll,
	} {
		if err := step(ctx, late); err != nil && !errors.Is(err, errOver) {
			t.Errorf("%s: %v", name, err)
		}
		if has, err := rdb.DBSize(ctx).Result(); err != nil || has != had {
			t.Fatalf("%s: the new owner has %d keys of %d, %v", name, has, had, err)
		}
	}
}
