package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// A bulk move that has moved something is over after movePatience, whether there is more or not.
const movePatience = 20 * time.Second

// RequeueAll queues again what of a selection failed, expired or was canceled, each job
// as [Store.Requeue] does, the newest first and at most [tasks.MostMoved]. Tickets that
// there is room for go to hand on the way. With an error, a *tasks.QuotaError among
// them, what is told was done all the same; with a [tasks.UnknownError] perhaps some
// more was.
func (s *Store) RequeueAll(ctx context.Context, sel tasks.Selection, l tasks.Limits, hand func([]tasks.Ticket)) (m tasks.Moved, err error) {
	err = s.moveAll(ctx, sel, &m, func(ctx context.Context, ids []string) error {
		jobs, err := s.each(ctx, ids, shown)
		if err != nil {
			return err
		}
		jobs = slices.DeleteFunc(jobs, func(j tasks.Job) bool {
			return !tasks.Owns(sel.Tenant, j.Tenant, j.User) || sel.May != nil && !sel.May(&j)
		})
		if len(jobs) == 0 {
			return nil
		}
		var said []string
		var refusal error
		err = operate(ctx, sel.Batch, func(ctx context.Context, op string) error {
			var next []tasks.Ticket
			var err error
			if said, next, err = s.requeueSome(ctx, op, sel.Tenant, jobs, l, true); said == nil {
				return err
			}
			refusal = err
			hand(next)
			return nil
		})
		for _, word := range said {
			switch word {
			case "ok":
				m.Jobs++
			case "large":
				m.TooLarge++
			}
		}
		if err == nil {
			err = refusal
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("requeue many jobs: %w", err)
	}
	return m, err
}

// CancelAll cancels what of a selection has not ended, as [Store.Cancel] does, the
// newest first and at most [tasks.MostMoved]. Errors are as of [Store.RequeueAll].
func (s *Store) CancelAll(ctx context.Context, sel tasks.Selection) (m tasks.Moved, err error) {
	err = s.moveAll(ctx, sel, &m, func(ctx context.Context, ids []string) error {
		var said []string
		err := operate(ctx, sel.Batch, func(ctx context.Context, op string) (err error) {
			said, err = s.run(ctx, cancelScript, args{"op": op, "tenant": sel.Tenant, "batch": ""}, anys(ids)...).StringSlice()
			return err
		})
		for _, word := range said {
			if word == "ok" {
				m.Jobs++
			}
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("cancel many jobs: %w", err)
	}
	return m, err
}

// Count is what a selection finds now: at most [tasks.MostMoved], and with an error those
// that were found before it.
func (s *Store) Count(ctx context.Context, sel tasks.Selection) (m tasks.Moved, err error) {
	err = s.moveAll(ctx, sel, &m, func(_ context.Context, ids []string) error {
		m.Jobs += len(ids)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("count jobs: %w", err)
	}
	return m, err
}

// moveAll has move move what a selection finds, some at a time, and m count it.
func (s *Store) moveAll(ctx context.Context, sel tasks.Selection, m *tasks.Moved, move func(ctx context.Context, ids []string) error) error {
	next, err := s.choose(ctx, sel)
	if err != nil {
		return err
	}
	begun, most := time.Now(), cmp.Or(sel.Most, tasks.MostMoved)
	for {
		found, looked, _, err := next(ctx, scanMost)
		if err != nil {
			m.More = true
			return err
		}
		for len(found) > 0 {
			m.More = true
			if m.Jobs == most || m.Jobs > 0 && time.Since(begun) > movePatience {
				return nil
			}
			n := min(len(found), cancelLines, most-m.Jobs)
			if err := move(ctx, found[:n]); err != nil {
				return err
			}
			found, m.More = found[n:], false
		}
		if looked < scanMost {
			return nil
		}
		if m.Jobs > 0 && time.Since(begun) > movePatience {
			m.More = true
			return nil
		}
	}
}

// choose looks through what a selection chooses from.
func (s *Store) choose(ctx context.Context, sel tasks.Selection) (look, error) {
	if sel.IDs == nil {
		return s.find(ctx, tasks.Filter{Tenant: sel.Tenant, Model: sel.Model, Pool: sel.Pool, Batch: sel.Batch, Since: sel.Since, Until: sel.Until, Metadata: sel.Metadata}, sel.Statuses)
	}
	ids := slices.Clone(sel.IDs)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return func(_ context.Context, n int) ([]string, int, string, error) {
		some := ids[:min(n, len(ids))]
		ids = ids[len(some):]
		return some, len(some), "", nil
	}, nil
}

var keyReserveScript = script("key_reserve")

// keySilent is how long a call may take that has reserved an Idempotency-Key: then it has
// died, and a repeat may have the key.
const keySilent = time.Minute

// ReserveKey takes an Idempotency-Key for a call that makes no job and no batch, and that
// id names. answer is what the first call with the key was answered, nil when this is the
// first; a ReusedError and ErrKeyBusy are as of a submit. The answer is kept by
// [Store.SaveAnswer].
func (s *Store) ReserveKey(ctx context.Context, tenant, key, fingerprint, id string) (answer []byte, err error) {
	var reply []string
	err = Sure(ctx, id, func(ctx context.Context) (err error) {
		reply, err = s.keyReserve(ctx, tenant, key, fingerprint, id, false)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reserve a key: %w", unseen(err))
	}
	switch reply[0] {
	case "busy":
		return nil, tasks.ErrKeyBusy
	case "reused":
		return nil, &tasks.ReusedError{ID: reply[1]}
	case "leaving":
		return nil, tasks.ErrLeaving
	case "replay":
		return s.first(ctx, tenant, reply[2], reply[1])
	}
	return nil, nil
}

// FreeKey gives up the key of a call that did not come to its end.
func (s *Store) FreeKey(ctx context.Context, tenant, key, id string) error {
	if _, err := s.keyReserve(ctx, tenant, key, "", id, true); err != nil {
		return fmt.Errorf("free a key: %w", err)
	}
	return nil
}

func (s *Store) keyReserve(ctx context.Context, tenant, key, fingerprint, id string, free bool) ([]string, error) {
	key, fingerprint, err := s.reservation(ctx, tenant, key, fingerprint)
	if err != nil {
		return nil, err
	}
	return s.run(ctx, keyReserveScript, args{
		"tenant": tenant, "key": key, "fingerprint": fingerprint, "id": id, "free": free,
		"silent": keySilent.Milliseconds(), "keep": answersKept.Milliseconds(),
	}).StringSlice()
}
