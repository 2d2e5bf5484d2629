package store_test

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Jobs that wait for their not_before are told apart from those that may run, and from those
// that are to be tried again.
func TestJobsForLaterAreCounted(t *testing.T) {
	t.Parallel()
	w := newTold(t)
	_, next := create(t, w.Store, job("globex"))
	w.over(w.begin(next[0], tasks.Waited{}), tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: time.Minute, Attempt: tasks.Attempt{Outcome: tasks.ServerError}})
	create(t, w.Store, job("acme"))
	for _, in := range []time.Duration{2 * time.Hour, time.Hour} {
		j := job("acme")
		j.NotBefore = w.at.Add(in)
		create(t, w.Store, j)
	}
	got, err := w.Later(t.Context())
	must(t, err)
	if want := (tasks.Later{Jobs: 2, First: w.at.Add(time.Hour).Truncate(time.Millisecond)}); len(got) != 1 || got[pool] != want {
		t.Errorf("got %v, want %v in %s alone", got, want, pool)
	}
	if l, err := w.Load(t.Context(), pool); err != nil || l.Queued != 4 {
		t.Errorf("%d wait, want 4: %v", l.Queued, err)
	}
}
