package worker

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// A deadline is measured from the start by Redis's clock, whatever this
// process's says.
func TestTheDeadlineBoundsACallByRedissClock(t *testing.T) {
	t.Parallel()
	p := &servedPool{Pool: Pool{Timeout: time.Minute}}
	at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // long past, for this process
	for _, c := range []struct {
		name     string
		deadline time.Time
		want     time.Duration
		own      bool
	}{
		{"none", time.Time{}, time.Minute, false},
		{"near", at.Add(5 * time.Second), 5 * time.Second, true},
		{"beyond the pool's own", at.Add(time.Hour), time.Minute, false},
	} {
		if got, own := bound(p, tasks.Job{Deadline: c.deadline}, tasks.Started{At: at}); got != c.want || own != c.own {
			t.Errorf("%s: %v, %t; want %v, %t", c.name, got, own, c.want, c.own)
		}
	}
}
