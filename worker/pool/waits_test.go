package pool

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// Where a tenant is under review, its users at their limit wait for that as well; a job that stands aside
// waits for its user's others, also where the load does not name the user.
func TestUsersAtTheirLimitWaitForWhatHoldsThem(t *testing.T) {
	t.Parallel()
	now := time.Now()
	v := view{load: tasks.Load{WorkedAt: now, AtLimit: map[string]bool{"acme/ada": true, "acme": true}, Reviewed: map[string]bool{"acme": true}}}
	if why := v.stands(now); why != tasks.WaitReview {
		t.Errorf("under review a pool waits for %q", why)
	}
	v.load.AtLimit, v.load.Reviewed = nil, nil
	j := tasks.Job{Tenant: "acme", User: "ada", Status: tasks.StatusQueued}
	if why := v.reason(j, tasks.Place{Own: 9, Aside: true}, now); why != tasks.WaitRunningJobs {
		t.Errorf("aside, a job waits for %q", why)
	}
	v.load.Reviewed = map[string]bool{"acme": true}
	if why := v.reason(j, tasks.Place{Own: 9, Aside: true}, now); why != tasks.WaitReview {
		t.Errorf("aside and under review, it waits for %q", why)
	}
}

// What a pool is said to wait for is what its next job is, and its jobs for later are none of
// those that the allowance holds back.
func TestAPoolWaitsForWhatItsNextJobDoes(t *testing.T) {
	t.Parallel()
	w := newWalk(t, 1)
	w.at = time.Now().UTC() // the gate goes by Redis's clock
	if _, err := w.Watch(t.Context(), true, "claude", "gpt"); err != nil {
		t.Fatal(err)
	}
	made := func(later time.Duration) tasks.Job {
		t.Helper()
		j := tasks.Job{ID: store.NewID("job"), Tenant: "acme", Pool: "claude", Model: "m1", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"x"`), MaxTokens: 16}}
		if later > 0 {
			j.NotBefore = w.at.Add(later)
		}
		created, _, err := w.Create(t.Context(), tasks.Submission{Job: j})
		if err != nil {
			t.Fatal(err)
		}
		return created[0].Job
	}
	stands := func() tasks.PoolStatus {
		t.Helper()
		all, err := w.set.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	if p := stands(); p.WaitsFor != "" || !p.DrainedAt.IsZero() {
		t.Errorf("an empty pool waits for %q until %v", p.WaitsFor, p.DrainedAt)
	}
	w.set.later = laters{} // what was read is 10 s good
	made(time.Hour)
	if p := stands(); p.Queued != 1 || p.Scheduled != 1 || p.WaitsFor != "" || !p.DrainedAt.IsZero() || !p.NextScheduledAt.After(w.at) {
		t.Errorf("with a job for later: %+v", p)
	}
	var five []tasks.Job
	for range 5 {
		five = append(five, made(0))
	}
	last := five[4]
	p := stands()
	told, err := w.set.Waiting(t.Context(), last)
	if err != nil || p.WaitsFor != told.For || p.Queued != 6 || p.Scheduled != 1 || p.DrainedAt.IsZero() {
		t.Errorf("the job waits for %q, the pool, with %d and %d for later, for %q until %v: %v", told.For, p.Queued, p.Scheduled, p.WaitsFor, p.DrainedAt, err)
	}
	if _, _, err := w.SaveConducts(t.Context(), []tasks.Conduct{{Tenant: "acme", Data: []byte("x"), Held: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Sweep(t.Context()); err != nil { // passes it over
		t.Fatal(err)
	}
	for _, j := range five[:4] { // some of which are with a worker, and no review holds them
		if _, err := w.Cancel(t.Context(), "acme", j.ID); err != nil {
			t.Fatal(err)
		}
	}
	w.at = w.at.Add(time.Second) // nobody looks at what was seen before
	if told, err := w.set.Waiting(t.Context(), last); err != nil || told.For != tasks.WaitReview || !told.EstimatedStart.IsZero() {
		t.Errorf("under review the job waits for %q until %v: %v", told.For, told.EstimatedStart, err)
	}
	if p := stands(); p.Queued != 2 || p.WaitsFor != tasks.WaitReview || !p.DrainedAt.IsZero() {
		t.Errorf("with all of it under review the pool waits for %q until %v", p.WaitsFor, p.DrainedAt)
	}
	if err := w.set.Pause(t.Context(), "claude", "the bill", "ada", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if p := stands(); p.WaitsFor != tasks.WaitPaused || !p.DrainedAt.IsZero() {
		t.Errorf("paused by an operator it waits for %q until %v", p.WaitsFor, p.DrainedAt)
	}
}
