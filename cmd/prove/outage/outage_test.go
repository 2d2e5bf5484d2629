package outage

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// every returns n accepted calls from a moment on, with gap between two.
func every(from time.Time, gap time.Duration, n int) []rig.Call {
	var out []rig.Call
	for i := range n {
		at := from.Add(time.Duration(i) * gap)
		out = append(out, rig.Call{Call: fake.Call{At: at, Accepted: true, Status: 200}, End: at.Add(gap)})
	}
	return out
}

func TestFullPace(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ramp := append(every(t0, 200*time.Millisecond, 50), every(t0.Add(10*time.Second), 50*time.Millisecond, 200)...)
	at, ok := fullPace(ramp, t0, 5*time.Second, 20, 0.97)
	if got := at.Sub(t0); !ok || got < 9*time.Second || got > 10*time.Second {
		t.Errorf("5 calls/s for 10 s, then 20: full pace after %v, %t; want just before 10 s", got, ok)
	}
	if at, ok := fullPace(ramp[:50], t0, 5*time.Second, 20, 0.97); ok {
		t.Errorf("5 calls/s are full pace of 20 at %v", at)
	}
	if at, ok := fullPace(ramp, t0.Add(16*time.Second), 5*time.Second, 20, 0.97); ok {
		t.Errorf("a stretch that ends early is full pace at %v", at)
	}
}

func TestBetween(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	calls := every(t0, time.Second, 10)
	calls[3].Accepted, calls[3].Status = false, 429
	accepted, limited, all := between(calls, t0.Add(time.Second), t0.Add(5*time.Second))
	if accepted != 3 || limited != 1 || all != 4 {
		t.Errorf("%d accepted, %d limited, %d in all; want 3, 1, 4", accepted, limited, all)
	}
}
