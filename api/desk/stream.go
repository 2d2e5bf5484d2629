package desk

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// Stream is a call whose caller is given the answer's events as they come. It is for one
// goroutine, and to be released.
type Stream struct {
	*Answered
	watch   *Watch
	reread  *time.Ticker
	release func()
	reader  bool // nobody waits for the job: this is somebody who reads its answer

	from   int  // the call whose events were told; 0: none
	only   int  // the only call whose events may be told; 0: any
	offset int  // bytes told
	more   bool // there is more to read than was read last
}

// Told says how far a stream has come.
type Told int

// How far a stream has come.
const (
	Going  Told = iota // it goes on, perhaps after Piece.Raw
	Closed             // with Piece.Raw, all is told as the provider sent it
	Failed             // likewise, and the provider's own error was its end
	Ended              // nothing was told, and the job has ended: Stream.Job is it
	Broken             // what was told has no end, and none will come: Stream.Job is as it is now
)

// Piece is what a stream's caller is to be told next.
type Piece struct {
	Raw  []byte // events as the provider sent them; the last may go on in the next piece
	More bool   // Raw may end inside an event
	Told Told
}

// Stream is [Desk.Call] for a caller who is told of the answer as it comes: it returns
// once the job is durable, without waiting. It fails as Call does, with what is known at
// once, and when the tenant holds too many requests already; then there is no job. The
// events of one attempt are told, from the first to the last: another's are only when
// none of the one before was.
func (d *Desk) Stream(ctx context.Context, c Caller, q Asked) (*Stream, error) {
	release, err := d.Hold(c.Tenant)
	if err != nil {
		return nil, err
	}
	a, err := d.call(ctx, c, q)
	if err == nil {
		err = a.passable(ctx)
	}
	if err != nil {
		release()
		return nil, err
	}
	renewed := a.renew(ctx)
	return d.watched(ctx, a, func() { renewed(); release() }), nil
}

// Follow is a stream of the answer to a job that goes on whoever reads it. A reader who
// resumes has events of an attempt already, and is told of no other.
func (d *Desk) Follow(ctx context.Context, c Caller, job tasks.Job, resumes bool) (*Stream, error) {
	release, err := d.Hold(c.Tenant)
	if err != nil {
		return nil, err
	}
	a := &Answered{Job: job, desk: d, call: tasks.Call{Tenant: c.Tenant, ID: job.ID}, revoked: c.Revoked}
	s := d.watched(ctx, a, release)
	if n := len(job.Log); resumes && n > 0 {
		s.only = job.Log[n-1].N
	}
	s.reader = true
	return s, nil
}

func (d *Desk) watched(ctx context.Context, a *Answered, release func()) *Stream {
	s := &Stream{Answered: a, watch: d.Watch(ctx, a.call.Tenant, a.call.ID), more: true}
	s.reread = time.NewTicker(s.watch.Reread)
	s.release = func() { s.reread.Stop(); s.watch.Stop(); release() }
	return s
}

// Release ends the stream.
func (s *Stream) Release() { s.release() }

// Sent is [Answered.Sent], for a caller whose job this is.
func (s *Stream) Sent(ctx context.Context, left bool) {
	if !s.reader {
		s.Answered.Sent(ctx, left)
	}
}

// passable ends the call when its job waits for a pool that no wait opens.
func (a *Answered) passable(ctx context.Context) error {
	if a.Job.Status.Final() || a.Job.Status == tasks.StatusRunning {
		return nil
	}
	if barred := a.desk.c.Pools.Barred(ctx, a.Job.Pool); barred != "" {
		return a.desk.endCall(ctx, a, barred)
	}
	return nil
}

// Next waits for what the caller is to be told next, for at most wait: then the piece is
// empty. It fails as Call does where no wait helps, with tasks.ErrNotFound when the job
// was deleted, with ErrRevoked, and with the error of ctx. What Redis does not say now it
// is asked again.
func (s *Stream) Next(ctx context.Context, wait time.Duration) (Piece, error) {
	end := time.NewTimer(wait)
	defer end.Stop()
	changed := s.watch.Changed
	for look := s.more; ; look = true {
		if err := s.barred(); err != nil {
			return Piece{}, err
		}
		if look {
			p, err := s.look(ctx)
			if err != nil && !errors.Is(err, tasks.ErrUnavailable) {
				return Piece{}, err
			}
			if len(p.Raw) > 0 || p.Told != Going {
				return p, nil
			}
		}
		select {
		case _, ok := <-changed:
			if !ok {
				changed = nil
			}
		case <-s.reread.C:
			if err := s.refresh(ctx); err != nil {
				return Piece{}, err
			}
		case <-end.C:
			return Piece{}, nil
		case <-s.revoked: // as is seen above
		case <-ctx.Done():
			return Piece{}, cmp.Or(s.barred(), ctx.Err())
		}
	}
}

// barred is ErrRevoked when the token of who reads was revoked.
func (s *Stream) barred() error {
	select {
	case <-s.revoked:
		return ErrRevoked
	default:
		return nil
	}
}

// look reads what has come since, and judges it.
func (s *Stream) look(ctx context.Context) (Piece, error) {
	e, err := s.desk.c.Calls.Events(ctx, s.call.ID, s.offset)
	if err != nil {
		return Piece{}, err
	}
	s.more = e.More
	p := s.judge(&e)
	if p.Told == Ended || p.Told == Broken {
		if s.Job, err = s.desk.c.Jobs.Job(ctx, s.call.Tenant, s.call.ID); err != nil {
			return Piece{}, err
		}
	}
	return p, nil
}

// judge says what e means for a caller who was told so much already.
func (s *Stream) judge(e *tasks.Events) Piece {
	switch {
	case s.offset == 0 && !current(e):
		if e.Status.Final() {
			return Piece{Told: Ended}
		}
		return Piece{}
	case s.offset > 0 && e.Call != s.from, s.only > 0 && e.Call != s.only:
		return Piece{Told: Broken}
	}
	s.from, s.offset = e.Call, s.offset+e.Size
	switch {
	case e.More:
	case e.End == tasks.StreamWhole:
		return Piece{Raw: e.Raw, Told: Closed}
	case e.End == tasks.StreamFailed:
		return Piece{Raw: e.Raw, Told: Failed}
	case len(e.Raw) == 0 && (e.Status != tasks.StatusRunning || e.Calls != s.from):
		return Piece{Told: Broken}
	}
	return Piece{Raw: e.Raw, More: e.More}
}

// current reports whether events may be told from the beginning. Those of a call that is
// over may not, unless they are the answer: another may follow, or the job ends with an
// error of its own.
func current(e *tasks.Events) bool {
	if e.Call == 0 || e.Call != e.Calls || e.End == tasks.StreamFailed {
		return false
	}
	return e.Status == tasks.StatusRunning || e.Status == tasks.StatusSucceeded && e.End == tasks.StreamWhole
}

// refresh looks whether the job still may run, while nothing was told.
func (s *Stream) refresh(ctx context.Context) error {
	if s.offset > 0 || s.reader {
		return nil
	}
	job, err := s.watch.Job(ctx, false)
	if err != nil {
		if errors.Is(err, tasks.ErrNotFound) {
			return err
		}
		return nil // asked again
	}
	s.Job = job
	return s.passable(ctx)
}
