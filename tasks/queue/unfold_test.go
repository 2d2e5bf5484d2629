package queue_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// endless is a backlog in which a large batch is put into lines for ever, a small one once,
// and a batch whose writer has gone is never forgotten.
type endless struct {
	*store.Store
	mu     sync.Mutex
	done   []string // batches of which some lines were put into lines
	sweeps int
	aborts int
}

func (e *endless) Sweep(context.Context) (tasks.Swept, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sweeps++
	return tasks.Swept{NextDue: -1, Unfold: []string{"large", "small"}, Stale: []string{"gone"}}, nil
}

func (e *endless) Unfold(_ context.Context, batch string) (int64, []tasks.Ticket, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = append(e.done, batch)
	if batch == "small" {
		return 0, nil, nil
	}
	return 1, nil, nil
}

func (e *endless) AbortBatch(ctx context.Context, _ string) error {
	e.mu.Lock()
	e.aborts++
	e.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

func TestALargeBatchHoldsUpNeitherSweepsNorOtherBatches(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	metrics := prometheus.NewRegistry()
	e := &endless{Store: store.New(store.Config{Redis: rdb})}
	f := queue.NewFeeder(queue.Config{Redis: rdb, Backlog: e, Every: time.Millisecond, Metrics: metrics})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()
	redistest.Until(t, "sweeps go on beside, and the small batch has had its turn", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		small := 0
		for _, batch := range e.done {
			if batch == "small" {
				small++
			}
		}
		return e.sweeps > 5 && small > 2
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	small := len(slices.DeleteFunc(e.done, func(batch string) bool { return batch == "large" }))
	if n := mended(t, metrics, "batch_unfolded"); n < small || n > small+2 {
		t.Errorf("%d gaps were closed by batches, want 1 for the large one and 1 for each of %d turns of the small one", n, small)
	}
	if e.aborts != 1 {
		t.Errorf("the abandoned batch was begun to be forgotten %d times", e.aborts)
	}
}

// mended is how many gaps of a kind sweeps have closed.
func mended(t *testing.T, metrics prometheus.Gatherer, kind string) int {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "sluice_sweep_mended_total" && m.GetLabel()[0].GetValue() == kind {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	return -1
}
