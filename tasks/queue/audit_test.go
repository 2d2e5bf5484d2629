package queue

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/tasks"
)

// However many jobs are lost at once, the log has the id of each, and few lines.
func TestEveryLostJobIsNamed(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := &Feeder{
		c:    Config{Log: slog.New(slog.NewJSONHandler(&log, nil))},
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lost"}, []string{"pool"}),
	}
	var lost []tasks.LostJob
	for i := range 2*namedMost + 1 {
		lost = append(lost, tasks.LostJob{ID: fmt.Sprintf("job_%d.", i), Tenant: "acme", Pool: "claude"})
	}
	lost = append(lost, tasks.LostJob{ID: "job_other.", Ended: true})
	f.name(lost)
	f.name(nil)
	for _, j := range lost {
		if n := strings.Count(log.String(), j.ID); n != 1 {
			t.Errorf("%s is named %d times", j.ID, n)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 4 {
		t.Errorf("%d lines for %d jobs:\n%s", n, len(lost), &log)
	}
	for pool, want := range map[string]float64{"claude": 2*namedMost + 1, unknownPool: 1} {
		if got := testutil.ToFloat64(f.lost.WithLabelValues(pool)); got != want {
			t.Errorf("%v lost of pool %s, want %v", got, pool, want)
		}
	}
}

// A count of a user is told by its tenant: the log names no user.
func TestTheLogOfCountsNamesNoUser(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := &Feeder{
		c:      Config{Log: slog.New(slog.NewJSONHandler(&log, nil))},
		mended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mended"}, []string{"kind"}),
	}
	f.audited(&tasks.Audited{Counts: []string{"waiting acme", "user acme/ada@example.com", "user acme/bob/of the shop", "running claude"}})
	if !strings.Contains(log.String(), `"counts":["waiting acme","user acme","running claude"]`) {
		t.Errorf("the log has %s", &log)
	}
	if got := testutil.ToFloat64(f.mended.WithLabelValues("counts")); got != 4 {
		t.Errorf("%v counts are counted, want 4", got)
	}
}
