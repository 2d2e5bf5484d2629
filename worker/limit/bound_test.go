package limit

import "testing"

// A place says what it was waited for, so that a job can.
func TestAPlaceSaysWhatItsCallWaitedFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		limits Limits
		need   Need
		status string
		want   string
	}{
		{"requests", Limits{RequestsPerMinute: 60, RequestBurst: 1}, Need{}, "ok", "requests"},
		{"input", Limits{RequestsPerMinute: 6000, InputTokensPerMinute: 6000}, Need{InputTokens: 4000}, "ok", "input_tokens"},
		{"output", Limits{RequestsPerMinute: 6000, OutputTokensPerMinute: 600}, Need{MaxTokens: 4000}, "ok", "output_tokens"},
		{"concurrency", Limits{RequestsPerMinute: 6000, Concurrency: 1}, Need{}, "full", "concurrency"},
		{"a line past the horizon", Limits{RequestsPerMinute: 1}, Need{}, "far", "requests"},
	} {
		m := newClock(t, c.limits)
		first, _ := m.ask(m.g, c.need)
		if first.wait == 0 && first.bound != "" {
			t.Errorf("%s: the first call passes at once and waited for %q", c.name, first.bound)
		}
		got := first
		for range 3 {
			if got.status != "ok" || got.wait == 0 || got.status != c.status {
				got, _ = m.ask(m.g, c.need)
			}
		}
		if got.status != c.status || got.bound != c.want {
			t.Errorf("%s: %s in %v, bound by %q; want %s, by %q", c.name, got.status, got.wait, got.bound, c.status, c.want)
		}
	}
}

// Who stands behind a call that waits waits for the same, and who came when nobody
// waited for nothing; a gate that nobody has asked of late is served by none.
func TestACallBehindOneThatWaitsHasWaitedForTheSame(t *testing.T) {
	t.Parallel()
	m := newClock(t, Limits{RequestsPerMinute: 600})
	now := m.g.clock.now()
	before, behind := &waiter{since: now}, &waiter{since: now.Add(1 << 40)}
	m.g.waited("input_tokens")
	m.g.boundAt = now.Add(1)
	for _, c := range []struct {
		w    *waiter
		a    answer
		want string
	}{{before, answer{}, "input_tokens"}, {before, answer{bound: "requests"}, "requests"}, {behind, answer{}, ""}} {
		if got := m.g.boundLocked(c.w, c.a); got != c.want {
			t.Errorf("since %v with %+v: %q, want %q", c.w.since, c.a, got, c.want)
		}
	}
	if s := state(t, m.g); s.Served {
		t.Error("nobody has asked, and it is served")
	}
	_, grant := m.ask(m.g, Need{})
	if s := state(t, m.g); !s.Served {
		t.Error("somebody has asked, and it is not served")
	}
	m.settle(m.g, grant, Actual{Refused: true})
	m.t += 21
	if s := state(t, m.g); s.Served {
		t.Error("who asked has been silent for longer than its lease, and it is served")
	}
}
