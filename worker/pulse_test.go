package worker

import (
	"testing"
	"time"
)

// Headers that waited while the process stood still are not of the moment at
// which it read them.
func TestWhatIsReadAfterAStopMayBeOld(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	p := newPulse()
	for _, ms := range []int{0, 20, 40, 65} { // on time, and a little late
		p.at(at(ms))
	}
	if p.late(at(50), at(70)) {
		t.Error("what came between two beats on time is held for old")
	}
	if !p.late(at(364), at(365)) {
		t.Error("what is read by who runs before the pulse, after a stop of 0.3 s, is held for new")
	}
	for ms := 365; ms < 480; ms += 20 {
		p.at(at(ms))
	}
	for _, c := range []struct {
		came int
		want bool
	}{{60, false}, {200, true}, {365, true}, {460, true}, {470, false}} {
		if got := p.late(at(c.came), at(480)); got != c.want {
			t.Errorf("stopped from 65 to 365 ms: what came at %d ms is late: %v, want %v", c.came, got, c.want)
		}
	}
}
