package wire

import (
	"context"
	"io"
	"net/http"
	"os"
	"time"
)

// How slow a body may be. It has to bring slowBytes in any slowSpan in which it is
// waited for, which is 1 KiB a second, and all of it within an hour.
const (
	slowSpan  = 15 * time.Second
	slowBytes = 15 << 10
	longest   = time.Hour
)

// Steady has whoever reads a request's body fail with [os.ErrDeadlineExceeded]
// when it comes too slowly. Only the time spent waiting for the caller counts, so
// that a slow reader blames nobody.
func Steady(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		control := http.NewResponseController(w)
		// For a body that nobody reads: the server reads it to its end.
		_ = control.SetReadDeadline(time.Now().Add(slowSpan))
		read := *r
		read.Body = &steady{ReadCloser: r.Body, deadline: control.SetReadDeadline, pace: pace{end: time.Now().Add(longest)}}
		next.ServeHTTP(w, &read)
	})
}

// Account is the room that a body takes in memory.
type Account interface {
	// Expect takes room for a body of n bytes before it is read, or says why there is none.
	Expect(ctx context.Context, n int64) error
	// Take takes room for n bytes more, unless they were expected.
	Take(ctx context.Context, n int64) error
	// Grow returns memory for a body that is longer than have, with what have holds at its
	// beginning, and takes the room.
	Grow(ctx context.Context, have []byte) ([]byte, error)
	// Give gives n bytes back; less than 0 is all.
	Give(n int64)
	// Spent gives all back, and the body's memory to the next: nothing reads it any more.
	Spent()
}

// Charge has what [Open] and [Read] read of the request's body charged, as it is after
// decompression. The request must have come through [Steady].
func Charge(r *http.Request, a Account) {
	if s, ok := r.Body.(*steady); ok {
		s.account = a
	}
}

// While has reading the request's body fail as soon as good returns an error. The request
// must have come through [Steady].
func While(r *http.Request, good func() error) {
	if s, ok := r.Body.(*steady); ok {
		s.good = good
	}
}

// Charged returns the account of the request's body; one that keeps nothing where it
// has none.
func Charged(r *http.Request) Account {
	if s, ok := r.Body.(*steady); ok && s.account != nil {
		return s.account
	}
	return free{}
}

// free is an account without a limit.
type free struct{}

func (free) Expect(context.Context, int64) error { return nil }
func (free) Take(context.Context, int64) error   { return nil }
func (free) Give(int64)                          {}
func (free) Spent()                              {}

func (free) Grow(_ context.Context, have []byte) ([]byte, error) {
	return append(make([]byte, 0, max(smallBody, 2*cap(have))), have...), nil
}

// charged takes room for what it reads.
type charged struct {
	io.Reader
	ctx     context.Context
	account Account
}

func (c charged) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if n > 0 {
		if full := c.account.Take(c.ctx, int64(n)); full != nil {
			return 0, full
		}
	}
	return n, err
}

// steady moves the connection's read deadline along while bytes arrive.
type steady struct {
	io.ReadCloser
	deadline func(time.Time) error
	pace     pace
	account  Account      // nil: none
	good     func() error // nil: always
}

func (s *steady) Read(p []byte) (int, error) {
	began := time.Now()
	by := s.pace.by(began)
	if !by.After(began) {
		return 0, os.ErrDeadlineExceeded
	}
	// A connection without deadlines has the server's own limits.
	_ = s.deadline(by)
	n, err := s.ReadCloser.Read(p)
	s.pace.got(n, time.Since(began))
	if err == io.EOF {
		_ = s.deadline(time.Time{}) // the caller may be quiet now, for as long as it waits for the answer
	}
	if s.good != nil {
		if bad := s.good(); bad != nil {
			return 0, bad
		}
	}
	return n, err
}

// pace is how a body has come.
type pace struct {
	waited time.Duration // for it, so far
	end    time.Time     // of all patience
	last   []arrival     // the last slowBytes, and what came with the first of them
	sum    int           // of last
}

// arrival is bytes that came after so much waiting.
type arrival struct {
	after time.Duration
	n     int
}

// by is when the next bytes have to be there, waiting from now on.
func (p *pace) by(now time.Time) time.Time {
	since := time.Duration(0) // the beginning counts as a moment at which all was well
	if p.sum >= slowBytes {
		since = p.last[0].after
	}
	if by := now.Add(since + slowSpan - p.waited); by.Before(p.end) {
		return by
	}
	return p.end
}

// got notes that n bytes came after more waiting.
func (p *pace) got(n int, waited time.Duration) {
	p.waited += waited
	if n <= 0 {
		return
	}
	const tick = 100 * time.Millisecond // arrivals that close together are one
	if i := len(p.last) - 1; i >= 0 && p.waited-p.last[i].after < tick {
		p.last[i].n += n
	} else {
		p.last = append(p.last, arrival{p.waited, n})
	}
	p.sum += n
	drop := 0
	for p.sum-p.last[drop].n >= slowBytes {
		p.sum -= p.last[drop].n
		drop++
	}
	p.last = append(p.last[:0], p.last[drop:]...)
}
