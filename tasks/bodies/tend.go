package bodies

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// What is to be removed waits in the bin, at most so many names; a sweep finds what
// does not fit. So many go in one call, with all that comes for a moment: what lies beside
// each other in a file goes as one.
const (
	binMost    = 10_000
	binOnce    = 500
	binPatient = 5 * time.Second // for what is in the bin at a stop
	binGather  = 200 * time.Millisecond
)

// Discard has bodies removed soon, by Run. It never waits: one that cannot be removed
// is left to a sweep.
func (s *Bodies) Discard(refs ...Ref) {
	for _, r := range refs {
		select {
		case s.bin <- r.Name:
		default:
			s.m.left.Inc()
		}
	}
}

// Record knows what is still of use.
type Record interface {
	// BodiesTurn reports whether it is this process's turn to sweep, which is nobody
	// else's for every.
	BodiesTurn(ctx context.Context, every time.Duration) (bool, error)
	// Orphans returns those of names that no record refers to.
	Orphans(ctx context.Context, names []string) ([]string, error)
}

// Run removes what was discarded, tries the store again and again, and sweeps, until
// ctx ends. What was discarded by then is removed first.
func (s *Bodies) Run(ctx context.Context, r Record) error {
	var parts sync.WaitGroup
	parts.Go(func() { s.empty(ctx) })
	parts.Go(func() {
		every(ctx, s.c.Try, func() { _ = s.Try(ctx) })
	})
	every(ctx, s.c.Sweep/4, func() {
		turn, err := r.BodiesTurn(ctx, s.c.Sweep)
		if err == nil && turn {
			err = s.Sweep(ctx, r)
		}
		if err != nil && ctx.Err() == nil {
			s.c.Log.Warn("bodies that nobody refers to were not looked for", "error", err)
		}
	})
	parts.Wait()
	return nil
}

func every(ctx context.Context, pause time.Duration, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// empty removes what comes into the bin.
func (s *Bodies) empty(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), binPatient)
			defer cancel()
			for end.Err() == nil && len(s.bin) > 0 {
				s.throw(end, <-s.bin)
			}
			s.m.left.Add(float64(len(s.bin)))
			return
		case name := <-s.bin:
			s.gather(ctx)
			s.throw(context.WithoutCancel(ctx), name)
		}
	}
}

// gather waits until more is in the bin.
func (s *Bodies) gather(ctx context.Context) {
	if len(s.bin) >= binOnce-1 {
		return
	}
	moment := time.NewTimer(binGather)
	defer moment.Stop()
	select {
	case <-ctx.Done():
	case <-moment.C:
	}
}

// throw removes a body with what else is in the bin.
func (s *Bodies) throw(ctx context.Context, name string) {
	list := []string{name}
	for len(list) < binOnce && len(s.bin) > 0 {
		list = append(list, <-s.bin)
	}
	if err := s.remove(ctx, list); err != nil {
		s.m.left.Add(float64(len(list)))
	}
}

// Sweep removes what nobody refers to and nobody has changed for a day. Objects that
// are not of this package stay.
func (s *Bodies) Sweep(ctx context.Context, r Record) error {
	var some []string
	ask := func() error {
		orphans, err := r.Orphans(ctx, some)
		if err == nil {
			err = s.remove(ctx, orphans)
		}
		if err != nil {
			return err
		}
		s.m.orphans.Add(float64(len(orphans)))
		some = some[:0]
		return nil
	}
	old := time.Now().Add(-s.c.Keep)
	err := s.b.list(ctx, func(name string, changed time.Time) error {
		switch {
		case !changed.Before(old):
		case strings.HasPrefix(name, trials), strings.HasPrefix(name, unfinished+"/"):
			return s.remove(ctx, []string{name})
		case isName(name):
			if some = append(some, name); len(some) == binOnce {
				return ask()
			}
		}
		return nil
	})
	if err == nil && len(some) > 0 {
		err = ask()
	}
	if err != nil {
		return s.fail("sweep", err)
	}
	return nil
}

// trials is where the objects of trials lie.
const trials = "trial/"

// tryWithin is for all of a trial.
const tryWithin = 5 * time.Second

// trial is how the last one went.
type trial struct {
	mu   sync.Mutex
	done bool
	err  error
}

// Try puts a small object, reads it and removes it, and says why that does not work.
func (s *Bodies) Try(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	err := s.try(within)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.tried.mu.Lock()
	defer s.tried.mu.Unlock()
	if s.tried.done, s.tried.err = true, err; err != nil {
		s.m.up.Set(0)
		return err
	}
	s.m.up.Set(1)
	return nil
}

func (s *Bodies) try(ctx context.Context) error {
	name := rand.Text()
	content := []byte("sluice " + name)
	name, err := s.b.put(ctx, trials+name, "", int64(len(content)), bytes.NewReader(content))
	if err != nil {
		return s.fail("put", err)
	}
	body, err := s.b.open(ctx, name)
	if err != nil {
		return s.fail("open", err)
	}
	got, err := io.ReadAll(io.LimitReader(body, 1024))
	if err = errors.Join(err, body.Close()); err != nil {
		return s.fail("read", err)
	}
	if !bytes.Equal(got, content) {
		return s.fail("read", fmt.Errorf("%d other bytes than the %d that were just put", len(got), len(content)))
	}
	if err := s.b.remove(ctx, []string{name}); err != nil {
		return s.fail("delete", err)
	}
	return nil
}

// Ready is how the last trial went; an error also when there was none yet.
func (s *Bodies) Ready() error {
	s.tried.mu.Lock()
	defer s.tried.mu.Unlock()
	if !s.tried.done {
		return s.fail("try", errors.New("it has not been tried yet"))
	}
	return s.tried.err
}
