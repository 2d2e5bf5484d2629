package limit

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// hundred is an allowance of a hundred requests a second, ten at once.
var hundred = Limits{RequestsPerMinute: 6000, RequestBurst: 10}

// A process that stood still has places that are taken off here and not at the
// provider, whose bucket has filled meanwhile. Sent beside what was saved up, they
// were refused.
func TestPlacesMissedInAStopAreNotSentBesideWhatItSavedUp(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	g := f.gate(t, redistest.New(t), hundred)
	start(t, g)
	confirm := func(grant Grant) Grant {
		grant, err := g.Confirm(t.Context(), grant)
		if err != nil {
			t.Error(err)
		}
		return grant
	}
	settle(t, g, confirm(take(t, g, Need{ID: "first"})), Actual{Known: true, OutputTokens: 1})
	f.advance(time.Second) // the bucket is full
	var missed []Grant
	for range 5 {
		missed = append(missed, take(t, g, Need{ID: "missed"}))
	}
	f.advance(400 * time.Millisecond) // it is full again, and the five are not sent

	sent := make(chan Grant, 32)
	for _, grant := range missed {
		go func() { sent <- confirm(grant) }()
	}
	eventually(t, "those that were missed are asked for again", func() bool {
		return testutil.ToFloat64(g.m.acquires.WithLabelValues("p", "late")) == 5
	})
	for range 16 {
		go func() {
			grant, err := g.Take(t.Context(), Need{ID: "new"})
			if err == nil {
				sent <- confirm(grant)
			}
		}()
	}
	// What the guard leaves free stays so, and the next comes at the pace.
	for range 8 {
		<-sent
	}
	f.sleeps(t, 10*time.Millisecond)
	if n := len(sent); n > 0 {
		t.Errorf("%d calls at once from a bucket of 10 with a guard of 2, want 8", 8+n)
	}
	for range 13 {
		f.pass(t, 10*time.Millisecond)
		<-sent
	}
}

// The way to Redis delays all calls alike: the provider gets them as spaced as they were.
func TestADelayThatAllCallsShareMissesNoPlace(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	g := f.gate(t, redistest.New(t), hundred)
	start(t, g)
	for range 40 {
		grant := take(t, g, Need{ID: "a"})
		f.advance(200 * time.Millisecond)
		grant, err := g.Confirm(t.Context(), grant)
		if err != nil {
			t.Fatal(err)
		}
		settle(t, g, grant, Actual{Known: true, OutputTokens: 1})
	}
	if n := testutil.ToFloat64(g.m.acquires.WithLabelValues("p", "late")); n != 0 {
		t.Errorf("%.0f places were given back, want none", n)
	}
}

// A delay that has come to stay, such as a longer way to Redis, is usual after a while.
func TestALongerWayIsUsualAfterAWhile(t *testing.T) {
	t.Parallel()
	g := newGate(t, redistest.New(t), hundred)
	now := time.Now()
	const slack = 60 * time.Millisecond
	late := 0
	for i := range 60 {
		delay := 2 * time.Millisecond
		if i >= 5 {
			delay = 300 * time.Millisecond
		}
		g.unsent["a"] = Grant{key: "a", due: now.Add(-delay), slack: slack}
		g.clock = stoodAt{systemClock{}, now}
		if !g.onTime("a", false) {
			late++
		}
	}
	if late < 10 || late > 30 {
		t.Errorf("%d of 55 calls were late after the way had become longer, want 10 to 30", late)
	}
}

type stoodAt struct {
	systemClock
	at time.Time
}

func (s stoodAt) now() time.Time { return s.at }

// How late a place may be used is until the bucket would be full, less the guard.
func TestHowLateAPlaceMayBeUsed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		limits Limits
		saved  float64 // s that nobody called before
		calls  int
		want   []float64 // s; below 0: for ever
	}{
		{"from an empty bucket", hundred, 0, 1, []float64{0.06}},
		{"from a full bucket", hundred, 1, 8, []float64{0.02, 0.02, 0.02, 0.02, 0.03, 0.04, 0.05, 0.06}},
		{"of one at once", Limits{RequestsPerMinute: 60, RequestBurst: 1}, 0, 1, []float64{0.8}},
		{"without a limit of requests", Limits{OutputTokensPerMinute: 1000}, 0, 1, []float64{-1e-6}},
	} {
		m := newClock(t, c.limits)
		if c.saved > 0 {
			_, grant := m.ask(m.g, Need{ID: "first"})
			m.settle(m.g, grant, Actual{Known: true})
			m.t += c.saved
		}
		for i, want := range c.want {
			a, _ := m.ask(m.g, Need{})
			if a.status != "ok" || a.wait != 0 || !near(a.slack, want, 1e-3) {
				t.Errorf("%s, call %d: %s in %v, at most %v later, want at once, %v s", c.name, i+1, a.status, a.wait, a.slack, want)
			}
		}
	}
}

// While somebody stands in line for a concurrency slot, nothing else is asked. Missed
// places hold slots, and the line waited for them as they waited for the line.
func TestMissedPlacesFreeTheirSlotsForTheLine(t *testing.T) {
	t.Parallel()
	f := newFakeClock()
	rdb := redistest.New(t)
	g := f.gate(t, rdb, Limits{RequestsPerMinute: 6000, RequestBurst: 10, Concurrency: 2})
	start(t, g)
	run := func(grant Grant) error {
		grant, err := g.Confirm(t.Context(), grant)
		if err != nil {
			return err
		}
		return g.Settle(t.Context(), grant, Actual{Known: true, OutputTokens: 1})
	}
	if err := run(take(t, g, Need{ID: "first"})); err != nil {
		t.Fatal(err)
	}
	f.advance(time.Second) // the bucket is full
	missed := []Grant{take(t, g, Need{ID: "missed"}), take(t, g, Need{ID: "missed"})}
	ended := make(chan error, 3)
	go func() {
		grant, err := g.Take(t.Context(), Need{ID: "third"})
		if err == nil {
			err = run(grant)
		}
		ended <- err
	}()
	eventually(t, "subscribed", g.subscribed.Load)
	eventually(t, "one stands in line", func() bool { return rdb.ZCard(t.Context(), "sluice:limit:{p}:waiting").Val() == 1 })
	f.advance(400 * time.Millisecond)
	for _, grant := range missed {
		go func() { ended <- run(grant) }()
	}
	for range 3 {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("slots are held by places that nobody uses")
		}
	}
}
