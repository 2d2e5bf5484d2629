package openai

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// A batch's files of results end when the batch said so, and never after its record.
func TestFilesOfResultsEnd(t *testing.T) {
	t.Parallel()
	ended := time.Unix(1000, 0)
	for _, row := range []struct {
		outputs int64 // seconds
		age     time.Duration
		serves  bool
		end     int64
	}{
		{0, time.Hour, true, 8200},
		{3600, time.Hour - time.Second, true, 4600},
		{3600, time.Hour, false, 4600},
		{9000, time.Hour, true, 8200},
	} {
		b := batch{extra: extra{Outputs: row.outputs}, Batch: tasks.Batch{
			Status: tasks.BatchEnded, EndedAt: ended, ExpiresAt: ended.Add(2 * time.Hour), Counts: tasks.Counts{Succeeded: 1},
		}}
		a := &API{c: Config{Now: func() time.Time { return ended.Add(row.age) }}}
		if got, end := a.serves(&b, false), b.outputsEnd().Unix(); got != row.serves || end != row.end || a.serves(&b, true) {
			t.Errorf("%+v: served: %t, until %d", row, got, end)
		}
	}
}
