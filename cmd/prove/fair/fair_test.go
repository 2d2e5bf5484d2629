package fair

import (
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// The measurements judge a small run as they do a long one.
func TestTenantsShareTheAllowance(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	r, err := share(t.Context(), rdb, tokens, sizes(4), 500)
	if err != nil || r.jain < 0.99 || r.gap > 1.01 {
		t.Errorf("Jain's index %.3f, a gap of %.2f of the bound, %v; want at least 0.99 and at most 1", r.jain, r.gap, err)
	}
	if p99, stage, err := flood(t.Context(), rdb, 300, 200); err != nil || p99.Seconds() > stage.Seconds()+2 {
		t.Errorf("p99 wait %v with a stage of %v, %v; want at most 2 s more", p99, stage, err)
	}
	if least, err := lanes(t.Context(), rdb, 12*time.Second, 10*time.Second); err != nil || least < 0.75 || least > 1 {
		t.Errorf("a lane had %.3f of its share, %v; want 0.95", least, err)
	}
	if large, rest, err := large(t.Context(), rdb, 100); err != nil || large <= 0 || rest <= 0 {
		t.Errorf("large prompts wait %v, the others %v, %v", large, rest, err)
	}
	if p50, p99, err := picks(t.Context(), rdb, 200); err != nil || p50 <= 0 || p99 < p50 {
		t.Errorf("a pick takes %v, p99 %v µs, %v", p50, p99, err)
	}
	if list, err := servegen(); err != nil || len(list) != 37 {
		t.Errorf("%d tenants of the trace, %v; want 37", len(list), err)
	}
}
