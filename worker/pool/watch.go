package pool

import (
	"cmp"
	"context"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// watchEvery is how often a process says that it looks after the pools.
const watchEvery = time.Second

// Watch has what the pools' jobs wait for noted as it changes, until ctx ends; of all
// processes one looks at a pool at a time. works says that this process makes calls of
// the pools. What cannot be noted now leaves a gap in the pools' past, and is told to warn
// once until it can be again; nil: it is told to nobody.
func (s *Set) Watch(ctx context.Context, works bool, warn func(error)) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for failed := false; ; {
		err := s.WatchOnce(ctx, works)
		if err != nil && !failed && warn != nil && ctx.Err() == nil {
			warn(err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// WatchOnce is one round of [Set.Watch].
func (s *Set) WatchOnce(ctx context.Context, works bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*watchEvery)
	defer cancel()
	turns, err := s.record.Watch(ctx, works, s.Names()...)
	if err != nil {
		return err
	}
	var failed error // one pool that cannot be looked at keeps none of the others from it
	for _, t := range turns {
		v, err := s.look(ctx, t.Pool, viewFresh)
		if err == nil {
			err = s.record.Bound(ctx, t, v.bind(s.now()))
		}
		failed = cmp.Or(failed, err)
	}
	return failed
}

// bind is what the pool's jobs wait for, and since when as far as that is known.
func (v view) bind(now time.Time) tasks.Bind {
	b := tasks.Bind{For: v.binds(now), Shares: v.shares(), Begun: v.load.Begun}
	switch {
	case b.For == tasks.WaitPaused:
		b.At = v.pause.Since
	case b.For == tasks.WaitNoWorker && !v.load.WorkedAt.IsZero():
		b.At = v.load.WorkedAt.Add(watchEvery)
	case now.Sub(v.pause.Since) < 3*watchEvery:
		b.At = v.pause.Since // the end of a pause
	}
	return b
}
