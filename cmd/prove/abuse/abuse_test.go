package abuse

import (
	"context"
	"strings"
	"testing"
)

// A small world for a few hours: what is drawn depends on the seed alone, and every figure is told.
func TestASmallWorld(t *testing.T) {
	t.Parallel()
	c := Command{Tenants: 16}
	var told [2]string
	for i := range told {
		r, err := c.measure(t.Context(), 1, 4*60)
		if err != nil {
			t.Fatal(err)
		}
		told[i] = r.String()
	}
	if told[0] != told[1] {
		t.Errorf("one seed has shown two things:\n%s\n%s", told[0], told[1])
	}
	for _, want := range append(append(attackNames[:], benignNames[:]...), "seeds [1]", "of 8 attacks", "new_address", "model") {
		if !strings.Contains(told[0], want) {
			t.Errorf("nothing is told of %q", want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.measure(ctx, 1, minutes); err == nil {
		t.Error("what was broken off counts as measured")
	}
	if all, err := traces(); err != nil || len(all) != 3 || len(all[0]) != 2499 {
		t.Errorf("%d traces, %v", len(all), err)
	}
}
