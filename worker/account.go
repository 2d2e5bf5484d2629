package worker

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pool"
)

// Account is one of several accounts of a pool.
type Account struct {
	Name     string // as the list of attempts has it
	Provider string // as the jobs' records name it
	Caller   Caller
	Gate     Gate   // one and the same of those that share an allowance
	Health   Health // nil: nobody is told
	Weight   int64  // its share of what several could send at once; 1 or more
}

// account is one account, and what this process keeps to use it.
type account struct {
	Account
	bare   bare
	closed atomic.Int64 // until when the gate is taken for shut, in Unix nanoseconds
	sick   chan string  // a model that it is to try, for jobs wait that it holds back
}

// gone is closed while this process makes no calls of the account.
func (c *account) gone() <-chan struct{} {
	if c.Health == nil {
		return nil
	}
	return c.Health.Gone()
}

// shut reports whether it is, or the gate.
func (c *account) shut() bool {
	if time.Now().UnixNano() < c.closed.Load() {
		return true
	}
	select {
	case <-c.gone():
		return true
	default:
		return false
	}
}

// noted notes how the gate was asked, and returns that.
func (c *account) noted(err error) error {
	if errors.Is(err, limit.ErrShut) {
		c.closed.Store(time.Now().Add(shutFor).UnixNano())
	}
	return err
}

// paused reports whether it is, as far as is known.
func (c *account) paused() bool { return c.Health != nil && c.Health.Shut() }

// holds reports whether it holds a model back, as far as is known.
func (c *account) holds(model string) bool { return c.Health != nil && c.Health.Sick(model) }

// open reports whether the account takes calls of a model, as far as is known. It asks nobody, so
// that no account and no model holds up who waits for another.
func (c *account) open(model string) bool {
	if c.shut() || c.paused() {
		return false
	}
	if !c.holds(model) {
		return true
	}
	select {
	case c.sick <- model:
	default: // it tries one at a time
	}
	return false
}

// try tries the models that are held back, when they are due, until ctx ends.
func (c *account) try(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case model := <-c.sick:
			c.Health.Try(ctx, model)
		}
	}
}

// door is an account's gate, and notes when it cannot be asked.
type door struct{ *account }

func (d door) Take(ctx context.Context, n limit.Need) (limit.Grant, error) {
	g, err := d.account.Gate.Take(ctx, n)
	return g, d.noted(err)
}

func (d door) Return(g limit.Grant) { d.account.Gate.Return(g) }

func (d door) Gate() any { return allowance(d.account.Gate) }

// allowance is one and the same of gates that let calls through together.
func allowance(g Gate) any {
	if a, ok := g.(*pool.Allowance); ok {
		return a.Gate()
	}
	return g
}

// members are the accounts of a pool: those that are listed, or the one that it is.
func members(p Pool) (list []*account) {
	if len(p.Accounts) == 0 {
		return []*account{{Account: Account{Name: cmp.Or(p.Account, p.Provider), Provider: p.Provider, Caller: p.Caller, Gate: p.Gate, Health: p.Health, Weight: 1}}}
	}
	for _, c := range p.Accounts {
		list = append(list, &account{Account: c, sick: make(chan string, 1)})
	}
	return list
}

// turns chooses among the accounts that a pool lists, one too; nil where it lists none.
func turns(p Pool, list []*account) *pool.Turns {
	if len(p.Accounts) == 0 {
		return nil
	}
	var doors []pool.Door
	var weights []int64
	for _, c := range list {
		doors, weights = append(doors, door{c}), append(weights, max(1, c.Weight))
	}
	return pool.NewTurns(doors, weights)
}

// complete reports whether each account can be used.
func complete(list []*account) bool {
	for _, c := range list {
		if c.Caller == nil || c.Gate == nil {
			return false
		}
	}
	return true
}

// providers names those of a pool's accounts, for what is the same of all.
func (p *servedPool) providers() string {
	names := make([]string, len(p.accounts))
	for i, c := range p.accounts {
		names[i] = c.Provider
	}
	return strings.Join(names, "+")
}

// gates are those of accounts, each once.
func gates(accounts []*account) (list []Gate) {
	seen := map[Gate]bool{}
	for _, c := range accounts {
		if !seen[c.Gate] {
			seen[c.Gate] = true
			list = append(list, c.Gate)
		}
	}
	return list
}

// limits are what the allowances of all accounts give a minute now; 0: no limit.
func (p *servedPool) limits() (requests, input, output int64) {
	add := func(sum *int64, n int64, first bool) {
		if n == 0 || *sum == 0 && !first {
			*sum = 0
			return
		}
		*sum += n
	}
	seen := map[any]bool{}
	for i, g := range p.gates {
		if at := allowance(g); seen[at] {
			continue
		} else {
			seen[at] = true
		}
		r, in, out := g.Limits()
		add(&requests, r, i == 0)
		add(&input, in, i == 0)
		add(&output, out, i == 0)
	}
	return requests, input, output
}

// gone is closed while this process makes no calls of the pool; nil where it lists accounts,
// which are left one by one.
func (p *servedPool) gone() <-chan struct{} {
	if p.turns != nil {
		return nil
	}
	return p.accounts[0].gone()
}

// shut reports whether this process makes no calls of the pool.
func (p *servedPool) shut() bool {
	for _, c := range p.accounts {
		if !c.shut() {
			return false
		}
	}
	return true
}

// watch keeps what is known of the listed accounts up to date while jobs want to know, and has
// them try the models that they hold back, until ctx ends.
func (p *servedPool) watch(ctx context.Context) error {
	var tries sync.WaitGroup
	defer tries.Wait()
	for _, c := range p.accounts {
		tries.Go(func() { c.try(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.looks:
		}
		for _, c := range p.accounts {
			if c.Health != nil {
				c.Health.Paused(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// look has what is known of the accounts brought up to date soon.
func (p *servedPool) look() {
	select {
	case p.looks <- struct{}{}:
	default: // it will be
	}
}

// sick reports whether no listed account that takes calls takes those of a model, which it holds
// back; not while none takes any.
func (p *servedPool) sick(model string) (sick bool) {
	for _, c := range p.accounts {
		if c.shut() || c.paused() {
			continue
		}
		if !c.holds(model) {
			return false
		}
		sick = true
	}
	return sick
}

// heldFor is how long the jobs of a model are to wait, for it fails at every account that takes calls.
func (p *servedPool) heldFor(ctx context.Context, model string) (wait time.Duration) {
	if p.turns != nil && !p.sick(model) {
		return 0
	}
	for _, c := range p.accounts {
		if c.Health == nil || p.turns != nil && (c.shut() || c.paused()) {
			continue
		}
		own := c.Health.Held(ctx, model)
		if own == 0 {
			return 0
		}
		if wait == 0 || own < wait {
			wait = own
		}
	}
	return wait
}

// errHeld ends the wait of a job whose model has begun to fail at every account that takes calls.
var errHeld = errors.New("the job's model is held back")

// choose waits until an account can send the job's call, and takes its place there.
func (a *attempt) choose(ctx context.Context, need limit.Need) (err error) {
	list, i := a.p.accounts, 0
	if a.p.turns == nil {
		a.grant, err = door{list[0]}.Take(ctx, need)
	} else {
		i, a.grant, err = a.turn(ctx, need)
	}
	if err != nil {
		return err
	}
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.by = list[i]
	a.ticket.Asks.Account = a.by.Name // the renewal of leases reads the ticket
	return nil
}

// turn waits for the listed accounts. It is over when none of them could have the job: others reach
// one, and are to have it, or its model is held back.
func (a *attempt) turn(ctx context.Context, need limit.Need) (i int, g limit.Grant, err error) {
	p, model := a.p, a.job.Asks()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	i, g, err = p.turns.Take(ctx, need, func(i int) bool {
		p.look()
		if p.shut() {
			cancel(nil)
		} else if p.sick(model) {
			cancel(errHeld)
		}
		return p.accounts[i].open(model)
	})
	if err != nil && errors.Is(context.Cause(ctx), errHeld) {
		return i, g, errHeld
	}
	return i, g, err
}

// provider is whose answer the job has; before one is chosen, that of the first account.
func (a *attempt) provider() string {
	if a.by == nil {
		return a.p.accounts[0].Provider
	}
	return a.by.Provider
}
