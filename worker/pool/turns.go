package pool

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluicehq/sluice/worker/limit"
)

// Door is an account's gate, as who wants to send a call sees it.
type Door interface {
	Take(ctx context.Context, n limit.Need) (limit.Grant, error)
	Return(g limit.Grant)
	// Gate is one and the same of accounts that share an allowance: a call asks it once at a time.
	Gate() any
}

// Turns chooses, for each call, the account of a pool that can send it soonest. Of those that
// can at once they take turns by their weights. No call is bound to an account before it can be
// sent: while none can, it waits at all that are open, and the first one has it. Its methods may
// be called by many goroutines.
type Turns struct {
	doors   []Door
	weights []int64

	mu     sync.Mutex
	credit []int64
}

// NewTurns returns the turns of accounts, each with its weight, 1 or more.
func NewTurns(doors []Door, weights []int64) *Turns {
	return &Turns{doors: doors, weights: weights, credit: make([]int64, len(doors))}
}

// next picks one of the accounts by their weights: of those who may, the one that is owed most.
func (t *Turns) next(may []bool) (pick int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pick, all := -1, int64(0)
	for i, w := range t.weights {
		if !may[i] {
			continue
		}
		all += w
		t.credit[i] += w
		if pick < 0 || t.credit[i] > t.credit[pick] {
			pick = i
		}
	}
	if pick < 0 {
		return 0, false
	}
	t.credit[pick] -= all
	return pick, true
}

// Take waits until an account may send a call, and returns which, with its place at its gate. open
// says whether an account takes calls now; it is asked again and again. After an error nothing is
// taken: ctx's; [limit.ErrStopped]; [limit.ErrShut], where no gate can be asked; a
// [limit.LateError], where no account can send it in time.
func (t *Turns) Take(ctx context.Context, n limit.Need, open func(i int) bool) (int, limit.Grant, error) {
	r := round{t: t, begun: time.Now(), need: n, open: open, at: make([]place, len(t.doors)), took: make(chan took, len(t.doors)), waits: make(chan int, len(t.doors))}
	defer r.end()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	r.start(ctx)
	for {
		select {
		case i := <-r.waits:
			if r.at[i].running {
				r.start(ctx) // one more
			}
		case got := <-r.took:
			if r.over(got) {
				return got.i, got.grant, nil
			}
			if err := r.failed(ctx, got); err != nil {
				return 0, limit.Grant{}, err
			}
			r.start(ctx)
		case <-look.C:
			r.look(ctx)
		case <-ctx.Done():
			return 0, limit.Grant{}, ctx.Err()
		}
	}
}

// round is one Take.
type round struct {
	t     *Turns
	need  limit.Need
	begun time.Time
	open  func(i int) bool
	at    []place
	took  chan took
	waits chan int // whose call has to wait
	wg    sync.WaitGroup
}

// place is where a call stands at one account.
type place struct {
	running bool
	stop    context.CancelFunc
	err     error // why it is not asked again
}

type took struct {
	i     int
	grant limit.Grant
	err   error
}

// start has the call ask one account more, if there is one that is open; it reports that.
func (r *round) start(ctx context.Context) bool {
	may := make([]bool, len(r.at))
	for i := range may {
		may[i] = r.at[i].err == nil && !r.asks(r.t.doors[i].Gate()) && r.open(i)
	}
	i, ok := r.t.next(may)
	if !ok {
		return false
	}
	ctx, stop := context.WithCancel(ctx)
	r.at[i].running, r.at[i].stop = true, stop
	need := r.need
	if need.Within > 0 {
		need.Within = max(need.Within-time.Since(r.begun), 1)
	}
	need.Waits = func() {
		select {
		case r.waits <- i:
		default: // as many are told of as there are accounts
		}
	}
	r.wg.Go(func() {
		g, err := r.t.doors[i].Take(ctx, need)
		r.took <- took{i, g, err}
	})
	return true
}

// asks reports whether the call is at a gate.
func (r *round) asks(gate any) bool {
	for i := range r.at {
		if r.at[i].running && r.t.doors[i].Gate() == gate {
			return true
		}
	}
	return false
}

// over ends an account's turn, and reports whether the call may be sent there: not when the
// account has left meanwhile.
func (r *round) over(got took) bool {
	r.at[got.i].running = false
	r.at[got.i].stop()
	if got.err != nil {
		return false
	}
	if r.open(got.i) {
		return true
	}
	r.t.doors[got.i].Return(got.grant)
	return false
}

// failed notes why an account did not send a call, and returns the error of all when none is left.
func (r *round) failed(ctx context.Context, got took) error {
	var late *limit.LateError
	switch {
	case got.err == nil, errors.Is(got.err, context.Canceled) && ctx.Err() == nil:
		return nil // it left, and may come back
	case errors.Is(got.err, limit.ErrShut), errors.As(got.err, &late):
		r.at[got.i].err = got.err
	default:
		return got.err
	}
	var soonest error
	for _, p := range r.at {
		var l *limit.LateError
		switch {
		case p.err == nil:
			return nil
		case errors.As(p.err, &l) && (late == nil || l.Wait < late.Wait):
			late = l
		}
		soonest = p.err
	}
	if late != nil {
		return late
	}
	return soonest
}

// look takes the call away from accounts that have left, and to those that came back, also from
// where their gates could not be asked.
func (r *round) look(ctx context.Context) {
	for i := range r.at {
		if errors.Is(r.at[i].err, limit.ErrShut) && r.open(i) {
			r.at[i].err = nil
		}
		if r.at[i].running && !r.open(i) {
			r.at[i].stop()
		}
	}
	for r.start(ctx) {
	}
}

// end takes the call away from all accounts that have not sent it.
func (r *round) end() {
	for _, p := range r.at {
		if p.running {
			p.stop()
		}
	}
	r.wg.Wait()
	close(r.took)
	for got := range r.took {
		if got.err == nil {
			r.t.doors[got.i].Return(got.grant)
		}
	}
}
