package limit

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// fakeClock is one time for Redis and for processes, which the test moves.
type fakeClock struct {
	mu     sync.Mutex
	at     time.Time
	timers []*fakeTimer
	armed  chan struct{} // closed and made anew with each new timer
}

type fakeTimer struct {
	due time.Time
	c   chan time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{at: time.Unix(1_800_000_000, 0), armed: make(chan struct{})}
}

// gate is a gate of a process of this clock.
func (f *fakeClock) gate(t testing.TB, rdb redis.UniversalClient, l Limits, change ...func(*Config)) *Gate {
	t.Helper()
	return newGate(t, rdb, l, append(change, func(c *Config) {
		c.clock = f
		c.now = func() float64 { return float64(f.now().UnixMicro()) / 1e6 }
	})...)
}

func (f *fakeClock) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

func (f *fakeClock) timer(d time.Duration) (<-chan time.Time, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &fakeTimer{due: f.at.Add(d), c: make(chan time.Time, 1)}
	if d <= 0 {
		t.c <- f.at
		return t.c, func() {}
	}
	f.timers = append(f.timers, t)
	close(f.armed)
	f.armed = make(chan struct{})
	return t.c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.timers = slices.DeleteFunc(f.timers, func(other *fakeTimer) bool { return other == t })
	}
}

// advance moves the time and lets go what is due.
func (f *fakeClock) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = f.at.Add(d)
	f.timers = slices.DeleteFunc(f.timers, func(t *fakeTimer) bool {
		if t.due.After(f.at) {
			return false
		}
		t.c <- f.at
		return true
	})
}

// until waits until ok holds for what the timers have yet to wait, which is asked
// whenever one is added.
func (f *fakeClock) until(t testing.TB, what string, ok func(left []time.Duration) bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		f.mu.Lock()
		armed := f.armed
		var left []time.Duration
		for _, t := range f.timers {
			left = append(left, t.due.Sub(f.at))
		}
		f.mu.Unlock()
		if ok(left) {
			return
		}
		select {
		case <-armed:
		case <-limit:
			t.Fatalf("not within a minute: %s; timers wait for %v", what, left)
		}
	}
}

// sleeps waits until somebody sleeps for d from now on, but for what tests let
// pass too much, and returns for how long.
func (f *fakeClock) sleeps(t testing.TB, d time.Duration) (left time.Duration) {
	t.Helper()
	f.until(t, "a sleep of "+d.String(), func(all []time.Duration) bool {
		i := slices.IndexFunc(all, func(l time.Duration) bool { return (l - d).Abs() < 100*time.Microsecond })
		if i >= 0 {
			left = all[i]
		}
		return i >= 0
	})
	return left
}

// pass waits until somebody sleeps for d, and lets that time pass.
func (f *fakeClock) pass(t testing.TB, d time.Duration) {
	t.Helper()
	f.advance(f.sleeps(t, d) + time.Microsecond) // Redis names times in whole µs
}

// next moves the time to the next timer.
func (f *fakeClock) next() {
	f.mu.Lock()
	first := f.timers[0].due
	for _, t := range f.timers {
		if t.due.Before(first) {
			first = t.due
		}
	}
	d := first.Sub(f.at)
	f.mu.Unlock()
	f.advance(d + time.Microsecond)
}

func (f *fakeClock) sleeping() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.timers)
}
