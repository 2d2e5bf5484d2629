package store_test

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A job whose workers die during its calls is sent, and paid, so often and no more.
func TestAJobThatItsWorkersDieOfHasAnEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		alone  bool // from the second loss on
		stops  bool // each worker was stopping
		losses int  // counted after seven lost calls, or when it ended
		ends   int  // after so many lost calls; 0: not within seven
	}{
		{"run alone", true, false, 5, 5},
		{"by workers that do not run it alone", false, false, 2, 0},
		{"by workers that were stopped", true, true, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := time.Unix(1_800_000_000, 0)
			s := store.New(store.Config{Redis: redistest.New(t), Depth: map[string]int{pool: 4}, Now: func() time.Time { return at }})
			ctx := t.Context()
			sweep := func() tasks.Swept {
				swept, err := s.Sweep(ctx)
				if err != nil {
					t.Fatal(err)
				}
				return swept
			}
			j := job("acme")
			_, hand, err := s.Create(ctx, tasks.Submission{Job: j})
			if err != nil {
				t.Fatal(err)
			}
			losses := 0
			for call := 1; call <= 7; call++ {
				held, err := s.Take(ctx, hand[0])
				if err != nil {
					t.Fatal(err)
				}
				losses = held.Losses
				hand[0].Alone = c.alone && losses >= tasks.AloneFrom
				if _, _, err := s.Start(ctx, hand[0]); err != nil {
					t.Fatal(err)
				}
				if c.stops {
					if err := s.Leave(ctx, hand[:1]); err != nil {
						t.Fatal(err)
					}
				}
				var swept tasks.Swept
				for range 12 { // a sweep a second, so that its own gap spares no lease
					at = at.Add(time.Second)
					if swept = sweep(); swept.Lost > 0 {
						break
					}
				}
				if swept.Lost != 1 {
					t.Fatalf("call %d: %d jobs were lost, want 1", call, swept.Lost)
				}
				if len(swept.LostTooOften) > 0 {
					got, err := s.Job(ctx, "acme", j.ID)
					if err != nil || call != c.ends || got.Status != tasks.StatusFailed || got.Error.Code != tasks.WorkerLostTooOften || !got.Error.MaybeBilled ||
						len(got.Log) != call || swept.LostTooOften[0].ID != got.ID {
						t.Errorf("after %d lost calls: %+v, %+v, %v", call, got, swept.LostTooOften, err)
					}
					return
				}
				hand = swept.Hand
			}
			if c.ends != 0 {
				t.Errorf("seven calls were lost and the job goes on, want it to end with call %d", c.ends)
			}
			if losses != c.losses {
				t.Errorf("%d losses are counted, want %d", losses, c.losses)
			}
		})
	}
}
