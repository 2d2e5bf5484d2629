package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/limit"
)

// turnstile is an account's gate whose places the test gives.
type turnstile struct {
	free     atomic.Bool   // whoever asks may send at once
	places   chan error    // each lets one who waits go, or fails it
	asked    chan struct{} // each Take that has to wait
	returned atomic.Int64  // places given back
	left     chan struct{} // each Take that was taken away
	shut     atomic.Bool   // it could not be asked
}

func newTurnstile(free bool) *turnstile {
	g := &turnstile{places: make(chan error, 100), asked: make(chan struct{}, 100), left: make(chan struct{}, 100)}
	g.free.Store(free)
	return g
}

func (g *turnstile) Take(ctx context.Context, n limit.Need) (limit.Grant, error) {
	if g.free.Load() {
		return limit.Grant{ID: n.ID}, nil
	}
	n.Waits()
	g.asked <- struct{}{}
	select {
	case err := <-g.places:
		if errors.Is(err, limit.ErrShut) {
			g.shut.Store(true)
		}
		return limit.Grant{ID: n.ID}, err
	case <-ctx.Done():
		g.left <- struct{}{}
		return limit.Grant{}, ctx.Err()
	}
}

func (g *turnstile) Return(limit.Grant) { g.returned.Add(1) }
func (g *turnstile) Gate() any          { return g }

func always(int) bool { return true }

func among(weights []int64, gates ...*turnstile) *Turns {
	var doors []Door
	for _, g := range gates {
		doors = append(doors, g)
	}
	return NewTurns(doors, weights)
}

// came waits for what a test expects.
func came[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatal("a minute went by without: " + what)
	}
	return v
}

// taking starts a Take and returns where it says which account sends the call.
func taking(ctx context.Context, turns *Turns, open func(int) bool) <-chan sent {
	done := make(chan sent, 1)
	go func() {
		i, _, err := turns.Take(ctx, limit.Need{ID: "a"}, open)
		done <- sent{i, err}
	}()
	return done
}

type sent struct {
	by  int
	err error
}

func TestAccountsThatCanSendTakeTurnsByWeight(t *testing.T) {
	t.Parallel()
	turns := among([]int64{3, 1, 2}, newTurnstile(true), newTurnstile(true), newTurnstile(true))
	var by [3]int
	for range 600 {
		i, _, err := turns.Take(t.Context(), limit.Need{ID: "a"}, always)
		if err != nil {
			t.Fatal(err)
		}
		by[i]++
	}
	// While this process stands still, a call may ask a second account; it takes that one's turn.
	for i, want := range []int{300, 100, 200} {
		if by[i] >= want-30 && by[i] <= want+30 {
			continue
		}
		t.Errorf("accounts of the weights 3, 1 and 2 sent %d of 600 calls", by)
		break
	}
}

// Whichever of the accounts has to wait, and whichever is chosen first.
func TestACallIsNotBoundToAnAccountThatCannotSendIt(t *testing.T) {
	t.Parallel()
	stuck, free := newTurnstile(false), newTurnstile(true)
	turns := among([]int64{9, 1}, stuck, free)
	for range 50 {
		if i, _, err := turns.Take(t.Context(), limit.Need{ID: "a"}, always); i != 1 || err != nil {
			t.Fatalf("account %d sent the call, %v; want the one that can", i, err)
		}
	}
	for range len(stuck.asked) {
		came(t, "the stuck account is left", stuck.left)
	}
}

func TestACallGoesToTheFirstOfThoseThatItWaitsFor(t *testing.T) {
	t.Parallel()
	for first := range 3 {
		gates := []*turnstile{newTurnstile(false), newTurnstile(false), newTurnstile(false)}
		done := taking(t.Context(), among([]int64{1, 1, 1}, gates...), always)
		for _, g := range gates {
			came(t, "every account is asked", g.asked)
		}
		gates[first].places <- nil
		if got := came(t, "the call is sent", done); got.by != first || got.err != nil {
			t.Errorf("sent by %+v, want %d", got, first)
		}
		for i, g := range gates {
			if i != first && len(g.left) != 1 {
				t.Errorf("account %d still has the call", i)
			}
		}
	}
}

func TestAPlaceThatComesTooLateIsGivenBack(t *testing.T) {
	t.Parallel()
	gates := []*turnstile{newTurnstile(false), newTurnstile(false)}
	for range 20 { // the two come together, in either order
		done := taking(t.Context(), among([]int64{1, 1}, gates...), always)
		came(t, "asked", gates[0].asked)
		came(t, "asked", gates[1].asked)
		gates[0].places <- nil
		gates[1].places <- nil
		if got := came(t, "sent", done); got.err != nil {
			t.Fatal(got.err)
		}
		// One of the places is used; the other was never taken, or is given back.
		taken := 2 - len(gates[0].places) - len(gates[1].places)
		if back := gates[0].returned.Swap(0) + gates[1].returned.Swap(0); int(back) != taken-1 {
			t.Fatalf("%d places were taken and %d given back", taken, back)
		}
		for _, g := range gates {
			for len(g.places) > 0 {
				<-g.places
			}
		}
	}
}

func TestAnAccountLeavesAndComesBack(t *testing.T) {
	t.Parallel()
	gates := []*turnstile{newTurnstile(false), newTurnstile(false)}
	var mu sync.Mutex
	shut := map[int]bool{0: true}
	set := func(i int, is bool) {
		mu.Lock()
		defer mu.Unlock()
		shut[i] = is
	}
	done := taking(t.Context(), among([]int64{1, 1}, gates...), func(i int) bool {
		mu.Lock()
		defer mu.Unlock()
		return !shut[i]
	})
	came(t, "the open account is asked", gates[1].asked)
	if len(gates[0].asked) > 0 {
		t.Error("an account that takes no calls is asked")
	}
	set(1, true)
	came(t, "the call is taken from the account that left", gates[1].left)
	set(0, false)
	came(t, "the account that came back is asked", gates[0].asked)
	set(0, true)
	gates[0].places <- nil // it has left in the same moment
	eventually(t, "the place goes back, or is not taken", func() bool { return gates[0].returned.Load() == 1 || len(gates[0].left) == 1 })
	for len(gates[0].places) > 0 {
		<-gates[0].places
	}
	set(1, false)
	came(t, "the other is asked again", gates[1].asked)
	gates[1].places <- nil
	if got := came(t, "the call is sent", done); got.by != 1 || got.err != nil {
		t.Errorf("sent by %+v, want the second account", got)
	}
}

func TestACallFailsWhereEveryAccountFailsIt(t *testing.T) {
	t.Parallel()
	late := func(d time.Duration) error { return &limit.LateError{Wait: d} }
	for name, c := range map[string]struct {
		errs [2]error
		want string
	}{
		"no gate can be asked":          {[2]error{limit.ErrShut, limit.ErrShut}, limit.ErrShut.Error()},
		"too late everywhere":           {[2]error{late(9 * time.Second), late(5 * time.Second)}, late(5 * time.Second).Error()},
		"shut here, and too late there": {[2]error{limit.ErrShut, late(7 * time.Second)}, late(7 * time.Second).Error()},
		"the process stops":             {[2]error{limit.ErrStopped, nil}, limit.ErrStopped.Error()},
		"shut here, and well there":     {[2]error{limit.ErrShut, nil}, ""},
	} {
		gates := []*turnstile{newTurnstile(false), newTurnstile(false)}
		done := taking(t.Context(), among([]int64{1, 1}, gates...), func(i int) bool { return !gates[i].shut.Load() })
		came(t, name, gates[0].asked)
		came(t, name, gates[1].asked)
		gates[0].places <- c.errs[0]
		if c.errs[1] != nil || c.want == "" {
			gates[1].places <- c.errs[1]
		}
		got := came(t, name, done)
		if said := errText(got.err); said != c.want {
			t.Errorf("%s: %q, want %q", name, said, c.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestWhoLeavesTakesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	gates := []*turnstile{newTurnstile(false), newTurnstile(false)}
	done := taking(ctx, among([]int64{1, 1}, gates...), always)
	came(t, "asked", gates[0].asked)
	came(t, "asked", gates[1].asked)
	cancel()
	if got := came(t, "it returns", done); !errors.Is(got.err, context.Canceled) {
		t.Errorf("got %v", got.err)
	}
	if len(gates[0].left) != 1 || len(gates[1].left) != 1 {
		t.Error("an account still has the call")
	}
}

// A second place at one gate would only be given back, and others pay for it meanwhile.
func TestACallWaitsOnceAtAGateThatAccountsShare(t *testing.T) {
	t.Parallel()
	shared, own := newTurnstile(false), newTurnstile(false)
	left := make(chan struct{})
	done := taking(t.Context(), among([]int64{1, 1, 1}, shared, shared, own), func(i int) bool {
		select {
		case <-left:
			return i > 0
		default:
			return true
		}
	})
	came(t, "the shared gate is asked", shared.asked)
	came(t, "the other gate is asked", own.asked) // after the accounts that share had their turn
	if len(shared.asked) > 0 {
		t.Error("a call waits twice at one gate")
	}
	close(left)
	came(t, "the call is taken from the account that left", shared.left)
	came(t, "and waits for the one that shares its gate", shared.asked)
	shared.places <- nil
	if got := came(t, "the call is sent", done); got.by != 1 || got.err != nil {
		t.Errorf("sent by %+v, want the second account", got)
	}
}

func TestAGateThatCouldNotBeAskedIsAskedAgain(t *testing.T) {
	t.Parallel()
	gates := []*turnstile{newTurnstile(false), newTurnstile(false)}
	done := taking(t.Context(), among([]int64{1, 1}, gates...), always)
	came(t, "asked", gates[0].asked)
	came(t, "asked", gates[1].asked)
	gates[0].places <- limit.ErrShut
	came(t, "it is asked again", gates[0].asked)
	gates[0].places <- nil
	if got := came(t, "the call is sent", done); got.by != 0 || got.err != nil {
		t.Errorf("sent by %+v, want the account that came back", got)
	}
}
