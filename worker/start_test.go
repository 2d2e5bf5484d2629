package worker_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker"
)

// deaf loses the answer to the first start, which is in the record all the same.
type deaf struct {
	worker.Record
	starts *atomic.Int64
}

func (d deaf) Start(ctx context.Context, t tasks.Ticket) (tasks.Started, []tasks.Ticket, error) {
	started, next, err := d.Record.Start(ctx, t)
	if d.starts.Add(1) == 1 && err == nil {
		return tasks.Started{}, nil, tasks.ErrUnavailable
	}
	return started, next, err
}

// Redis fell silent while a start was recorded: no call was made, and the log
// says what became of the start.
func TestAStartWithoutAnAnswerIsHandedBack(t *testing.T) {
	p := newProvider(t, say)
	s := start(t, p, options{record: func(r worker.Record) worker.Record { return deaf{r, new(atomic.Int64)} }})
	j := s.final(s.submit())
	if j.Status != tasks.StatusSucceeded || j.Attempts != 1 || p.count() != 1 {
		t.Errorf("%s after %d attempts and %d calls; want succeeded after one of each", j.Status, j.Attempts, p.count())
	}
	if len(j.Log) != 2 || j.Log[0].Outcome != tasks.HandedBack || j.Log[0].MaybeBilled {
		t.Errorf("log %+v; want a start that was handed back, unbilled, and the call", j.Log)
	}
}
