package dispatch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pass has tenants send bytes through a lane at once, each taking a while, and returns
// when each passed and whose they were, in order.
func pass(t *testing.T, l *lane, sizes map[string][]int) (when map[string][]time.Duration, order []string) {
	t.Helper()
	when = map[string][]time.Duration{}
	start, inside := time.Now(), 0
	var wg sync.WaitGroup
	for tenant, list := range sizes {
		for _, n := range list {
			wg.Go(func() {
				err := l.Do(t.Context(), tenant, n, func() error {
					if inside++; inside > 1 {
						t.Error("two pass at once")
					}
					<-time.After(10 * time.Millisecond)
					inside--
					when[tenant] = append(when[tenant], time.Since(start))
					order = append(order, tenant)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	return when, order
}

func TestLargeBodiesOfATenantHaveARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(100)
		when, _ := pass(t, l, map[string][]int{"acme": {200, 200, 200}})
		want := []time.Duration{10 * time.Millisecond, 1020 * time.Millisecond, 3030 * time.Millisecond}
		for i, at := range when["acme"] { // the first second's worth was saved up
			if at < want[i]-20*time.Millisecond || at > want[i]+20*time.Millisecond {
				t.Errorf("passed at %v, want about %v", when["acme"], want)
				break
			}
		}
		<-time.After(time.Minute)
		when, _ = pass(t, l, map[string][]int{"acme": {10, 10, 10, 10, 10}})
		if last := when["acme"][4]; last != 50*time.Millisecond {
			t.Errorf("what is saved up passed within %v, want 50ms", last)
		}
		<-time.After(time.Minute)
		_, _ = pass(t, l, map[string][]int{"zoe": {1}})
		if len(l.senders) != 1 {
			t.Errorf("%d tenants are remembered, want 1", len(l.senders))
		}
	})
}

// A tenant that sends much has one of each turn, and another does not wait for its rest.
func TestTenantsTakeTurnsWithLargeBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(1000)
		when, order := pass(t, l, map[string][]int{"foe": slices.Repeat([]int{1000}, 8), "victim": {1000}})
		if at := slices.Index(order, "victim"); at > 1 || when["victim"][0] > 20*time.Millisecond {
			t.Errorf("the order is %v, the victim's at %v", order, when["victim"])
		}
	})
}

// Who goes away leaves its place, whatever it waits for.
func TestACallerLeavesTheLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(100)
		ctx, cancel := context.WithCancel(t.Context())
		held := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = l.Do(t.Context(), "acme", 500, func() error { <-held; return nil }) })
		synctest.Wait()
		for _, tenant := range []string{"acme", "zoe"} {
			wg.Go(func() {
				if err := l.Do(ctx, tenant, 1, func() error { t.Errorf("%s passed", tenant); return nil }); !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", tenant, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(held)
		wg.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second) // while it rests
		defer cancel()
		if err := l.Do(ctx, "acme", 1, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it rests: %v", err)
		}
		if err := l.Do(t.Context(), "acme", 1, func() error { return errors.ErrUnsupported }); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("got %v", err)
		}
	})
}
