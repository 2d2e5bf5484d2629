package desk_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/tasks"
)

// counted is a store with one job that counts how often it is looked at.
type counted struct {
	store
	looks atomic.Int64
	final atomic.Bool
}

func (c *counted) Job(_ context.Context, tenant, id string) (tasks.Job, error) {
	c.looks.Add(1)
	<-time.After(time.Millisecond) // as far as Redis is
	j := tasks.Job{ID: id, Tenant: tenant, Status: tasks.StatusQueued}
	if c.final.Load() {
		j.Status = tasks.StatusSucceeded
	}
	return j, nil
}

// ears tell all who watch.
type ears struct {
	mu   sync.Mutex
	ends []chan *tasks.Job
}

func (e *ears) Watch(context.Context, string) (<-chan struct{}, func(), error) {
	return make(chan struct{}), func() {}, nil
}

func (e *ears) WatchEnd(context.Context, string) (<-chan *tasks.Job, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := make(chan *tasks.Job, 1)
	e.ends = append(e.ends, c)
	return c, func() {}, nil
}

func (e *ears) tell() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.ends {
		c <- nil
	}
}

func TestAllWhoWaitForAJobLookTogether(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		notices desk.Notices
		told    bool
	}{
		"told":   {&ears{}, true},
		"untold": {silent{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const waiters = 100
				var st counted
				d, err := desk.New(desk.Config{
					Jobs: &st, Batches: &st.store, Notices: c.notices, Pools: pools{}, NewID: func(string) string { return "" },
					Caps: room(t, caps.Config{TenantStreams: waiters}),
				})
				if err != nil {
					t.Fatal(err)
				}
				var done sync.WaitGroup
				var finals atomic.Int64
				for i := range waiters {
					done.Go(func() {
						<-time.After(time.Duration(i) * 70 * time.Millisecond) // each at a moment of its own
						j, err := d.AwaitJob(t.Context(), "acme", "job_1", time.Hour)
						if err != nil {
							t.Error(err)
						}
						if j.Status.Final() {
							finals.Add(1)
						}
					})
				}
				<-time.After(10 * time.Second)
				before := st.looks.Load()
				<-time.After(10 * time.Second)
				if got := st.looks.Load() - before; got > 11 {
					t.Errorf("%d who wait looked %d times in 10 s, want once a second at most", waiters, got)
				}
				before = st.looks.Load()
				st.final.Store(true)
				if e, ok := c.notices.(*ears); ok {
					e.tell()
				}
				began := time.Now()
				done.Wait()
				if took, got := time.Since(began), st.looks.Load()-before; finals.Load() != waiters || got > 3 || took > 2*time.Second+10*time.Millisecond || c.told && took > 10*time.Millisecond {
					t.Errorf("%d of %d saw the end within %s, by %d looks", finals.Load(), waiters, took, got)
				}
			})
		})
	}
}

// Who waits in vain is shown what the object is at the end, not what it was at first.
func TestTheEndOfAWaitIsLookedAt(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{time.Second, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var st counted
			d, err := desk.New(desk.Config{Jobs: &st, Batches: &st.store, Notices: &ears{}, Pools: pools{}, NewID: func(string) string { return "" }, Caps: room(t, caps.Config{})})
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(wait/2, func() { st.final.Store(true) }) // which nobody is told
			if j, err := d.AwaitJob(t.Context(), "acme", "job_1", wait); err != nil || !j.Status.Final() {
				t.Errorf("after %s: %v, %v", wait, j.Status, err)
			}
		})
	}
}

// A look that began before a change was told of does not count as one after it.
func TestALookIsNeverOlderThanWhatItsReaderWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var st counted
		e := &ears{}
		d, err := desk.New(desk.Config{Jobs: &st, Batches: &st.store, Notices: e, Pools: pools{}, NewID: func(string) string { return "" }, Caps: room(t, caps.Config{})})
		if err != nil {
			t.Fatal(err)
		}
		w := d.Watch(t.Context(), "acme", "job_1")
		defer w.Stop()
		var done sync.WaitGroup
		done.Go(func() { _, _ = w.Job(t.Context(), true) })
		synctest.Wait() // it looks, and will find what was before
		st.final.Store(true)
		w2 := d.Watch(t.Context(), "acme", "job_1")
		defer w2.Stop()
		<-time.After(time.Microsecond)
		if j, err := w2.Job(t.Context(), true); err != nil || !j.Status.Final() {
			t.Errorf("%v, %v; want the job as it is since", j.Status, err)
		}
		done.Wait()
		// Who gives up spoils it for nobody.
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Job(gone, true); err == nil {
			t.Log("it had the answer anyway")
		}
		if j, err := w2.Job(t.Context(), false); err != nil || !j.Status.Final() {
			t.Errorf("after another gave up: %v, %v", j.Status, err)
		}
	})
}
