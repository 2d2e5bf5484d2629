package worker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker"
)

// deaf loses the answer to the first start, which is in the record all the same.
type deaf struct {
	worker.Record
	starts *atomic.Int64
	err    error
}

func (d deaf) Start(ctx context.Context, t tasks.Ticket) (tasks.Started, []tasks.Ticket, error) {
	started, next, err := d.Record.Start(ctx, t)
	if d.starts.Add(1) == 1 && err == nil {
		return tasks.Started{}, nil, d.err
	}
	return started, next, err
}

// Redis fell silent while a start was recorded, or answered what nobody knows:
// no call was made, and the log says what became of the start.
func TestAStartWithoutAnAnswerIsHandedBack(t *testing.T) {
	t.Parallel()
	for _, err := range []error{tasks.ErrUnavailable, syscall.EPIPE, errors.New("NOPERM this user has no permissions")} {
		p := newProvider(t, say)
		s := start(t, p, options{record: func(r worker.Record) worker.Record { return deaf{r, new(atomic.Int64), err} }})
		j := s.final(s.submit())
		if j.Status != tasks.StatusSucceeded || j.Attempts != 1 || p.count() != 1 {
			t.Errorf("%v: %s after %d attempts and %d calls; want succeeded after one of each", err, j.Status, j.Attempts, p.count())
		}
		if len(j.Log) != 2 || j.Log[0].Outcome != tasks.HandedBack || j.Log[0].MaybeBilled {
			t.Errorf("%v: log %+v; want a start that was handed back, unbilled, and the call", err, j.Log)
		}
	}
}

// slow answers the first start late, as when the process was stopped meanwhile.
type slow struct {
	worker.Record
	starts *atomic.Int64
	within time.Duration // that a start has
}

func (s slow) Start(ctx context.Context, t tasks.Ticket) (tasks.Started, []tasks.Ticket, error) {
	started, next, err := s.Record.Start(ctx, t)
	if s.starts.Add(1) == 1 {
		<-time.After(s.within + 100*time.Millisecond)
	}
	return started, next, err
}

// The lease of such a start may be over, and the job somebody else's.
func TestAStaleStartIsNotCalled(t *testing.T) {
	t.Parallel()
	p := newProvider(t, say)
	starts, within := new(atomic.Int64), 300*time.Millisecond
	s := start(t, p, options{startWithin: within, record: func(r worker.Record) worker.Record { return slow{r, starts, within} }})
	j := s.final(s.submit())
	calls, back := int64(p.count()), int64(0)
	for _, a := range j.Log {
		if a.Outcome == tasks.HandedBack {
			back++
		}
	}
	// On a busy machine more starts than the first are late.
	if j.Status != tasks.StatusSucceeded || starts.Load() < 2 || calls < 1 || calls != starts.Load()-back || j.Attempts != 1 {
		t.Errorf("%s after %d starts, %d of them handed back, %d calls and %d attempts; want a call of each that was not, one attempt", j.Status, starts.Load(), back, calls, j.Attempts)
	}
	if j.Log[0].Outcome != tasks.HandedBack || j.Log[0].MaybeBilled {
		t.Errorf("log %+v; want the first start handed back, unbilled", j.Log)
	}
}
