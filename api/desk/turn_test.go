package desk

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestOneOfATenantAtATimeAndNobodyWaitsForAnother(t *testing.T) {
	t.Parallel()
	var ts turns
	var all sync.WaitGroup
	var mu sync.Mutex
	under := map[string]int{}
	for _, tenant := range []string{"a", "b"} {
		for range 50 {
			all.Go(func() {
				end, err := ts.take(t.Context(), tenant)
				if err != nil {
					t.Error(err)
					return
				}
				defer end()
				mu.Lock()
				if under[tenant]++; under[tenant] > 1 {
					t.Errorf("%d at once of tenant %s", under[tenant], tenant)
				}
				mu.Unlock()
				mu.Lock()
				under[tenant]--
				mu.Unlock()
			})
		}
	}
	all.Wait()
	if len(ts.of) > 0 {
		t.Errorf("%d tenants are remembered", len(ts.of))
	}
	end, err := ts.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ts.take(gone, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from a caller that has gone", err)
	}
	other, err := ts.take(t.Context(), "b") // waits for nobody
	if err != nil {
		t.Fatal(err)
	}
	other()
	end()
	if again, err := ts.take(t.Context(), "a"); err != nil {
		t.Error(err)
	} else {
		again()
	}
}
