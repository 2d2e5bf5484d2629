package pool

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/worker/limit"
)

// Allowance is the gate of an account in a pool of several. It is that of another one for as long as
// both are found to be of one organisation, which has one allowance. Its methods may be called by many goroutines.
type Allowance struct {
	own *limit.Gate

	mu    sync.Mutex
	at    *limit.Gate
	moved chan struct{} // closed when at is another one
}

// NewAllowance returns the allowance that a gate is.
func NewAllowance(own *limit.Gate) *Allowance {
	return &Allowance{own: own, at: own, moved: make(chan struct{})}
}

// Gate is where calls are let through now.
func (a *Allowance) Gate() *limit.Gate {
	at, _ := a.where()
	return at
}

func (a *Allowance) where() (*limit.Gate, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at, a.moved
}

// move has calls go to a gate from now on, those that wait as well, and reports whether that is another one.
func (a *Allowance) move(to *limit.Gate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == to {
		return false
	}
	a.at = to
	close(a.moved)
	a.moved = make(chan struct{})
	return true
}

// Run is [limit.Gate.Run] of its own gate, where calls may still have their places.
func (a *Allowance) Run(ctx context.Context) error { return a.own.Run(ctx) }

// Take is [limit.Gate.Take] where calls are let through.
func (a *Allowance) Take(ctx context.Context, n limit.Need) (limit.Grant, error) {
	began, within := time.Now(), n.Within
	if n.Waits != nil {
		n.Waits = sync.OnceFunc(n.Waits) // at the next gate too
	}
	for {
		at, moved := a.where()
		wait, stop := context.WithCancel(ctx)
		over := make(chan struct{})
		go func() {
			defer close(over)
			select {
			case <-moved:
				stop()
			case <-wait.Done():
			}
		}()
		g, err := at.Take(wait, n)
		stop()
		<-over
		if _, now := a.where(); now == moved || err != nil && ctx.Err() != nil {
			return g, err
		}
		if err == nil {
			at.Return(g)
		}
		if within > 0 {
			n.Within = max(within-time.Since(began), 1)
		}
	}
}

// of is the gate where a place was taken.
func (a *Allowance) of(g limit.Grant) *limit.Gate { return cmp.Or(g.Gate(), a.own) }

// Confirm is [limit.Gate.Confirm] where the place was taken, as Settle, SettleInput and Return are.
func (a *Allowance) Confirm(ctx context.Context, g limit.Grant) (limit.Grant, error) {
	return a.of(g).Confirm(ctx, g)
}

// Settle is [limit.Gate.Settle].
func (a *Allowance) Settle(ctx context.Context, g limit.Grant, did limit.Actual) error {
	return a.of(g).Settle(ctx, g, did)
}

// SettleInput is [limit.Gate.SettleInput].
func (a *Allowance) SettleInput(ctx context.Context, g limit.Grant, input int64, seen *limit.Observed) error {
	return a.of(g).SettleInput(ctx, g, input, seen)
}

// Return is [limit.Gate.Return].
func (a *Allowance) Return(g limit.Grant) { a.of(g).Return(g) }

// SoftRefusal is [limit.Gate.SoftRefusal].
func (a *Allowance) SoftRefusal(ctx context.Context) error { return a.Gate().SoftRefusal(ctx) }

// Hold is [limit.Gate.Hold].
func (a *Allowance) Hold(ctx context.Context, d time.Duration, reason string) error {
	return a.Gate().Hold(ctx, d, reason)
}

// Ramp is [limit.Gate.Ramp].
func (a *Allowance) Ramp(ctx context.Context, d time.Duration, reason string) error {
	return a.Gate().Ramp(ctx, d, reason)
}

// Resume is [limit.Gate.Resume].
func (a *Allowance) Resume(ctx context.Context, pace float64) error {
	return a.Gate().Resume(ctx, pace)
}

// Limits are [limit.Gate.Limits].
func (a *Allowance) Limits() (requests, input, output int64) { return a.Gate().Limits() }

// State is [limit.Gate.State].
func (a *Allowance) State(ctx context.Context) (limit.State, error) { return a.Gate().State(ctx) }

// Hands are the breakers' hands on the allowances of a process's accounts.
type Hands struct{ list []*Hand }

// Hand is that of one account's breaker. It stops an allowance only while no other account that has
// it takes calls, and then lets it go slowly; beside others that go on it does nothing.
type Hand struct {
	all       *Hands
	allowance *Allowance
	Health    *Health // of the account; set before anything runs
}

// On returns a hand on an allowance.
func (h *Hands) On(a *Allowance) *Hand {
	one := &Hand{all: h, allowance: a}
	h.list = append(h.list, one)
	return one
}

// others is the highest pace of another account that has the same allowance; 0: none takes calls. A process that
// starts, or whose look at another is a second old, would stop or slow down for everybody what others go on with: it asks.
func (h *Hand) others(ctx context.Context) (pace float64, err error) {
	at := h.allowance.Gate()
	for _, one := range h.all.list {
		if one == h || one.allowance.Gate() != at {
			continue
		}
		s, err := one.Health.breaker.State(ctx)
		if err != nil {
			return 0, err
		}
		pace = max(pace, s.Pace)
	}
	return pace, nil
}

// Hold is [limit.Gate.Hold], where nobody else goes on.
func (h *Hand) Hold(ctx context.Context, d time.Duration, reason string) error {
	others, err := h.others(ctx)
	if err != nil || others > 0 {
		return err
	}
	return h.allowance.Hold(ctx, d, reason)
}

// Resume is [limit.Gate.Resume], at no less than the pace at which others go on.
func (h *Hand) Resume(ctx context.Context, pace float64) error {
	others, err := h.others(ctx)
	if err != nil || others >= 1 {
		return err
	}
	return h.allowance.Resume(ctx, max(pace, others))
}

// merge has the accounts that are found to be of one organisation share one allowance: that which one
// of them names, or else the lowest of them. Who names an allowance keeps it.
func (a *Accounts) merge(ctx context.Context) {
	kin, orgs := map[string][]int{}, make([]string, len(a.list))
	for i, one := range a.list {
		if orgs[i] = one.Health.breaker.Organization(ctx); orgs[i] != "" {
			kin[orgs[i]] = append(kin[orgs[i]], i)
		}
	}
	for i, one := range a.list {
		if one.Allowance != "" || one.Pace == nil {
			continue
		}
		org, to := orgs[i], i
		if org != "" {
			to = slices.MinFunc(kin[org], a.before)
		}
		switch moved := one.Pace.move(a.list[to].Pace.own); {
		case moved && to == i:
			a.log.Info("an account has its own allowance again: no other is of its organisation", "pool", a.name, "account", one.Name, "organization", org)
		case moved:
			a.log.Warn("two accounts are of one organisation, and share one allowance from now on; name one for both in the configuration, with its limits",
				"pool", a.name, "account", one.Name, "allowance_of", a.list[to].Name, "organization", org)
		}
	}
}

// before orders accounts of one organisation by whose allowance all of them have.
func (a *Accounts) before(i, j int) int {
	named := func(i int) bool { return a.list[i].Allowance != "" }
	one, two := a.list[i].Pace.own.Configured(), a.list[j].Pace.own.Configured()
	switch {
	case named(i) != named(j) && named(i):
		return -1
	case named(i) != named(j):
		return 1
	}
	return cmp.Or(less(one.RequestsPerMinute, two.RequestsPerMinute), less(one.OutputTokensPerMinute, two.OutputTokensPerMinute),
		less(one.InputTokensPerMinute, two.InputTokensPerMinute), i-j)
}

// less compares limits, of which 0 is none.
func less(a, b int64) int {
	if a == 0 || b == 0 {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

// shares names the account whose allowance an account has, since both are found to be of one organisation; "": it has its own.
func (a Account) shares() string {
	if a.all == nil || a.Pace == nil || a.Pace.Gate() == a.Pace.own {
		return ""
	}
	for _, other := range a.all.list {
		if other.Pace.own == a.Pace.Gate() {
			return other.Name
		}
	}
	return ""
}
