package store_test

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Whether a job is to wait for its not_before is judged by Redis's clock, whatever
// that of the process says.
func TestNotBeforeGoesByRedissClock(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-2 * time.Hour, 2 * time.Hour} { // Redis before the process
		at := time.Now().Add(ahead)
		s := store.New(store.Config{Redis: redistest.New(t), Depth: map[string]int{pool: 1}, Now: func() time.Time { return at }})
		ctx := t.Context()
		for _, c := range []struct {
			from time.Duration // Redis's now
			want tasks.Status
		}{{time.Hour, tasks.StatusScheduled}, {-time.Hour, tasks.StatusQueued}} {
			j := job("acme")
			j.NotBefore = at.Add(c.from)
			made, _, err := s.Create(ctx, tasks.Submission{Job: j})
			if err != nil {
				t.Fatal(err)
			}
			line := job("acme")
			line.NotBefore = at.Add(c.from)
			commit(t, s, []tasks.Job{line})
			for what, id := range map[string]string{"single": j.ID, "a batch's line": line.ID} {
				got, err := s.Job(ctx, "acme", id)
				if err != nil || got.Status != c.want {
					t.Errorf("Redis's clock %v before the process's, not_before %v after it, %s: %s, %v, want %s", ahead, c.from, what, got.Status, err, c.want)
				}
			}
			if made[0].Job.Status != c.want {
				t.Errorf("the answer says %s, want %s", made[0].Job.Status, c.want)
			}
		}
	}
}

// commit accepts a batch of these lines.
func commit(t *testing.T, s *store.Store, lines []tasks.Job) {
	t.Helper()
	b, _, err := s.OpenBatch(t.Context(), store.NewID("batch"), "acme", "")
	if err == nil {
		err = s.StageBatch(t.Context(), b.ID, lines, tasks.Limits{})
	}
	if err == nil {
		_, err = s.CommitBatch(t.Context(), b.ID, tasks.BatchCommit{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
