package pool

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
)

// As many processes are wanted as hold the calls that the pace has under way.
func TestWorkersWantedFollowThePace(t *testing.T) {
	t.Parallel()
	now := time.Now()
	backlog := func(queued, running int64) tasks.Load {
		return tasks.Load{Queued: queued, Running: running, OldestQueuedAt: now}
	}
	pace := func(calls float64, latency time.Duration) limit.State {
		return limit.State{CallsPerSecond: calls, Latency: latency}
	}
	for _, c := range []struct {
		name string
		v    view
		want int
	}{
		{"nothing to do", view{gate: pace(100, 10*time.Second)}, 1},
		{"nobody knows the pace", view{load: backlog(9000, 0)}, 1},
		{"a backlog at 100 calls a second of 10 s", view{load: backlog(9000, 0), gate: pace(100, 10*time.Second)}, 4},
		{"a small backlog at that pace", view{load: backlog(10, 20), gate: pace(100, 10*time.Second)}, 1},
		{"what runs already", view{load: backlog(0, 600)}, 3},
		{"jobs in batches of the provider", view{load: tasks.Load{Running: 9000, Bundled: 9000}}, 1},
		{"jobs for later alone", view{load: tasks.Load{Queued: 9000}, gate: pace(100, 10*time.Second)}, 1},
		{"paused", view{load: backlog(9000, 0), gate: pace(100, 10*time.Second), pause: pause.State{Paused: true}}, 1},
	} {
		if got := c.v.workersWanted(); got != c.want {
			t.Errorf("%s: %d workers; want %d", c.name, got, c.want)
		}
	}
}

// Who waits is told by lane: tenants with a job that may run now, not those whose jobs are
// for later or were handed out.
func TestTenantsThatWaitAreToldByLane(t *testing.T) {
	t.Parallel()
	w := newWalk(t, 1)
	submit := func(tenant string, p tasks.Priority, later time.Duration) {
		j := tasks.Job{ID: store.NewID("job"), Tenant: tenant, Pool: "claude", Model: "m", Priority: p, Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"hello"`), MaxTokens: 16, InputTokens: 4}}
		if later > 0 {
			j.NotBefore = w.at.Add(later)
		}
		_, _, err := w.Create(w.Context(), tasks.Submission{Job: j})
		w.ok(err)
	}
	for range 2 {
		submit("first", tasks.Normal, 0) // they are handed out: two at a time
	}
	for range 3 {
		submit("acme", tasks.High, 0)
		submit("other", tasks.High, 0)
		submit("acme", tasks.Normal, 0)
	}
	submit("third", tasks.Low, time.Hour)
	if err := testutil.CollectAndCompare(w.set.Metrics(), strings.NewReader(`
# HELP sluice_backlog_tenants Tenants with jobs that wait and may run now, by lane: high, normal or low.
# TYPE sluice_backlog_tenants gauge
sluice_backlog_tenants{lane="high",pool="claude"} 2
sluice_backlog_tenants{lane="low",pool="claude"} 0
sluice_backlog_tenants{lane="normal",pool="claude"} 1
sluice_backlog_tenants{lane="high",pool="gpt"} 0
sluice_backlog_tenants{lane="low",pool="gpt"} 0
sluice_backlog_tenants{lane="normal",pool="gpt"} 0
`), "sluice_backlog_tenants"); err != nil {
		t.Error(err)
	}
}
