package queue_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Two of different prefixes on one Redis have pools of one name, and neither sees
// the other's jobs, tasks or pause.
func TestFeedersOfDifferentPrefixesNeverSeeEachOthersJobs(t *testing.T) {
	rdb := redistest.New(t)
	ids := map[string]string{}
	for _, prefix := range []string{"", "other"} {
		s := store.New(store.Config{Redis: rdb, Prefix: prefix, Depth: map[string]int{pool: 4}})
		f := queue.NewFeeder(queue.Config{Redis: rdb, Backlog: s, Prefix: prefix})
		j := tasks.Job{ID: store.NewID("job"), Tenant: "acme", Pool: pool, Model: "m", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`)}}
		made, tickets, err := s.Create(t.Context(), tasks.Submission{Job: j, Key: "one", Fingerprint: prefix})
		if err != nil || made[0].Err != nil || len(tickets) != 1 || tickets[0].ID != j.ID {
			t.Fatal(made, tickets, err)
		}
		if err := f.Hand(t.Context(), tickets); err != nil {
			t.Fatal(err)
		}
		ids[prefix] = j.ID
	}
	inspector := asynq.NewInspectorFromRedisClient(rdb)
	for prefix, id := range ids {
		list, err := inspector.ListPendingTasks(queue.Name(prefix, pool))
		if err != nil || len(list) != 1 || list[0].ID != fmt.Sprint(id, ":1") {
			t.Errorf("in the queue of %q: %v, %v; want its own job", prefix, list, err)
		}
		s := store.New(store.Config{Redis: rdb, Prefix: prefix, ResultTTL: time.Hour})
		page, err := s.Jobs(t.Context(), tasks.Filter{Tenant: "acme", Limit: 10})
		if err != nil || len(page.Jobs) != 1 || page.Jobs[0].ID != id {
			t.Errorf("in the record of %q: %v, %v; want its own job", prefix, page.Jobs, err)
		}
	}
	if err := queue.NewPauser(rdb, "other").Pause(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]bool{"": false, "sluice": false, "other": true} {
		if is, err := queue.NewPauser(rdb, prefix).Paused(t.Context(), pool); err != nil || is != want {
			t.Errorf("the queue of %q is paused: %t, %v; want %t", prefix, is, err, want)
		}
	}
}

func TestAQueueIsOneSluicesOwn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		prefix, name string
		want         bool
	}{
		{"", "claude", true}, {"sluice", "claude", true}, {"sluice", queue.Deliveries, true}, {"sluice", "gpt-4.1", true},
		{"sluice", "other:claude", false}, {"sluice", "", false},
		{"other", "other:claude", true}, {"other", queue.Name("other", queue.Deliveries), true},
		{"other", "claude", false}, {"other", "other", false}, {"other", "other:", false}, {"other", "others:claude", false}, {"other", "sluice:claude", false},
	} {
		if got := queue.Own(c.prefix, c.name); got != c.want {
			t.Errorf("%q is %q's own: %t", c.name, c.prefix, got)
		}
	}
}
