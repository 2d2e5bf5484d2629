package pool

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
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
		{"jobs for later alone", view{load: tasks.Load{Queued: 9000}, gate: pace(100, 10*time.Second)}, 1},
		{"paused", view{load: backlog(9000, 0), gate: pace(100, 10*time.Second), pause: pause.State{Paused: true}}, 1},
	} {
		if got := c.v.workersWanted(); got != c.want {
			t.Errorf("%s: %d workers; want %d", c.name, got, c.want)
		}
	}
}
