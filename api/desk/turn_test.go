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

// Of large bodies one of a tenant is read at a time, and no more than half of the processors
// read them; a small one waits for none.
func TestLargeBodiesAreReadByHalfOfTheProcessors(t *testing.T) {
	t.Parallel()
	d := &Desk{processors: newProcessors()}
	var all sync.WaitGroup
	var mu sync.Mutex
	most, under, sum := cap(d.processors), map[string]int{}, 0
	for _, tenant := range []string{"a", "b", "c", "d", "e"} {
		for range 20 {
			all.Go(func() {
				done, err := d.Reading(t.Context(), tenant, largeBody)
				if err != nil {
					t.Error(err)
					return
				}
				defer done()
				mu.Lock()
				under[tenant]++
				if sum++; sum > most || under[tenant] > 1 {
					t.Errorf("%d are read at once, %d of them of tenant %s", sum, under[tenant], tenant)
				}
				mu.Unlock()
				mu.Lock()
				under[tenant]--
				sum--
				mu.Unlock()
			})
		}
	}
	all.Wait()
	for i := range most {
		if _, err := d.Reading(t.Context(), string(rune('a'+i)), largeBody); err != nil {
			t.Fatal(err)
		}
	}
	small, err := d.Reading(t.Context(), "a", largeBody-1)
	if err != nil {
		t.Fatal(err)
	}
	small()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tenant := range []string{"a", "z"} { // which waits for its own, and for a processor
		if _, err := d.Reading(gone, tenant, largeBody); !errors.Is(err, context.Canceled) {
			t.Errorf("tenant %s: got %v from a caller that has gone", tenant, err)
		}
	}
	if len(d.readings.of) != most {
		t.Errorf("%d tenants are remembered, want those %d that read", len(d.readings.of), most)
	}
}
