package gather_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks/gather"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachGetsItsOwnAnswer(t *testing.T) {
	var calls atomic.Int64
	g := gather.New(8, 2, func(_ context.Context, asked []int) ([]int, error) {
		calls.Add(1)
		if len(asked) > 8 {
			t.Errorf("%d asked at once, at most 8", len(asked))
		}
		out := make([]int, len(asked))
		for i, q := range asked {
			out[i] = 2 * q
		}
		return out, nil
	})
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			if got, err := g.Do(t.Context(), i); err != nil || got != 2*i {
				t.Errorf("asked %d: %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if n := calls.Load(); n < 125 || n > 1000 {
		t.Errorf("%d calls for 1,000 questions of at most 8 together", n)
	}
}

// Those who come while a call is under way go together in the next.
func TestThoseWhoWaitGoTogether(t *testing.T) {
	begun, release := make(chan int, 4), make(chan struct{})
	g := gather.New(64, 1, func(_ context.Context, asked []int) ([]int, error) {
		begun <- len(asked)
		<-release
		return asked, nil
	})
	var wg sync.WaitGroup
	ask := func(q int) { wg.Go(func() { _, _ = g.Do(t.Context(), q) }) }
	ask(0)
	<-begun
	for i := 1; i <= 5; i++ {
		ask(i)
	}
	total := 1
	for close(release); total < 6; {
		total += <-begun
	}
	wg.Wait()
}

// What is large goes alone, and what is small goes with what fits beside it.
func TestACallTakesNoMoreThanItsSize(t *testing.T) {
	var mu sync.Mutex
	var calls [][]int
	begun, release := make(chan bool, 1), make(chan struct{})
	g := gather.NewSized(64, 1, 10, func(n int) int { return n }, func(_ context.Context, asked []int) ([]int, error) {
		mu.Lock()
		calls = append(calls, asked)
		first := len(calls) == 1
		mu.Unlock()
		if first {
			begun <- true
			<-release
		}
		return asked, nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = g.Do(t.Context(), 1) })
	<-begun
	for _, n := range []int{4, 6, 5, 25, 12, 3, 3, 3, 3, 1} {
		wg.Go(func() { _, _ = g.Do(t.Context(), n) })
	}
	close(release)
	wg.Wait()
	asked := 0
	for _, call := range calls {
		sum := 0
		for _, n := range call {
			sum += n
		}
		asked += len(call)
		if sum > 10 && len(call) > 1 {
			t.Errorf("%v were asked together, at most 10", call)
		}
	}
	if asked != 11 {
		t.Errorf("%d of 11 were asked", asked)
	}
}

func TestAnErrorIsEverybodys(t *testing.T) {
	broken := errors.New("broken")
	g := gather.New(4, 1, func(context.Context, []int) ([]int, error) { return nil, broken })
	for range 3 { // and the group goes on
		if _, err := g.Do(t.Context(), 1); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	short := gather.New(4, 1, func(context.Context, []int) ([]int, error) { return nil, nil })
	if _, err := short.Do(t.Context(), 1); err == nil {
		t.Error("no error for a missing answer")
	}
}
