package abuse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/tasks"
)

// memory is a store, shared by watches as Redis is.
type memory struct {
	mu   sync.Mutex
	kept map[string]tasks.Conduct
	acts []tasks.Act
	down bool
}

func (m *memory) SaveConducts(_ context.Context, list []tasks.Conduct) (newer []tasks.Conduct, now time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, now, tasks.ErrUnavailable
	}
	for _, c := range list {
		is := m.kept[c.Tenant]
		if is.Tenant = c.Tenant; is.Version != c.Version {
			newer = append(newer, is)
			continue
		}
		c.Version++
		m.kept[c.Tenant] = c
	}
	return newer, now, nil
}

func (m *memory) ChangeConduct(ctx context.Context, c tasks.Conduct, act tasks.Act) ([]tasks.Conduct, error) {
	newer, _, err := m.SaveConducts(ctx, []tasks.Conduct{c})
	if err == nil && len(newer) == 0 {
		m.acts = append(m.acts, act)
	}
	return newer, err
}

func (m *memory) Conducts(context.Context, int) (list []tasks.Conduct, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, tasks.ErrUnavailable
	}
	for _, c := range m.kept {
		if c.Found {
			list = append(list, c)
		}
	}
	return list, nil
}

// Two processes watch one tenant: what each saw counts, one prompt many times is told to the
// tenant without a word of it, and nobody is refused for that alone.
func TestTwoProcessesWatchOneTenant(t *testing.T) {
	t.Parallel()
	m := &memory{kept: map[string]tasks.Conduct{}}
	now := morning
	var both [2]*Watch
	for i := range both {
		w, err := New(Config{Store: m, Secret: []byte("secret"), Enforce: true, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		both[i] = w
	}
	for range 5 {
		for i, w := range both {
			for range 4 {
				w.See(&Visit{Tenant: "acme", User: "u", Address: fmt.Sprint(i), Jobs: 1, Tokens: 10, Body: []byte("the very same canary prompt")})
			}
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(time.Minute)
	}
	for _, w := range both {
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Allow("acme"); err != nil {
			t.Errorf("refused for one signal: %v", err)
		}
	}
	f, err := both[0].Of(t.Context(), "acme")
	if err != nil || len(f.Flags) != 1 || f.Flags[0].Rule != Identical || f.Flags[0].Measure < 20 {
		t.Errorf("found %+v, %v; want identical, of what both saw", f, err)
	}
	if all, err := both[1].All(t.Context()); err != nil || len(all) != 1 || all[0].Tenant != "acme" {
		t.Errorf("found of all: %+v, %v", all, err)
	}
	data := m.kept["acme"].Data
	if strings.Contains(string(data), "canary") || len(data) > 3900 {
		t.Errorf("%d bytes are kept, with the prompt in them or too many", len(data))
	}
	if err := both[0].Release(t.Context(), "acme", tasks.Act{By: "ada"}); err != nil {
		t.Fatal(err)
	}
	if err := both[0].Release(t.Context(), "nobody", tasks.Act{By: "ada"}); !errors.Is(err, tasks.ErrNotFound) {
		t.Errorf("release of nobody: %v", err)
	}
	if len(m.acts) != 1 || m.acts[0].By != "ada" {
		t.Errorf("the audit has %+v, want the one release that was done", m.acts)
	}
}

// What came while the store did not answer is forgotten, also before a process has heard of it: it is not judged
// later as if it had come in one window.
func TestWhatCameBeforeTheStoreAnsweredIsForgotten(t *testing.T) {
	t.Parallel()
	m := &memory{kept: map[string]tasks.Conduct{}, down: true}
	w, err := New(Config{Store: m, Secret: []byte("secret"), Now: func() time.Time { return morning }})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.See(&Visit{Tenant: "acme", Jobs: 1})
		if err := w.Flush(t.Context()); err == nil {
			t.Fatal("the store is away, and nothing failed")
		}
	}
	m.down = false
	if err := w.Flush(t.Context()); err != nil || len(m.kept) > 0 {
		t.Errorf("%v; kept of %d tenants, want none", err, len(m.kept))
	}
}

// A tenant at a rung is refused until it is released, and while the store is away by nobody.
func TestAllow(t *testing.T) {
	t.Parallel()
	m := &memory{kept: map[string]tasks.Conduct{}}
	now := morning
	w, err := New(Config{Store: m, Secret: []byte("secret"), Enforce: true, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	at := func(rung Action) {
		t.Helper()
		c := Conduct{Since: now.Unix(), Window: number(now, time.Minute), Version: conductVersion, Ladder: ladder{Rung: rung}}
		m.kept["acme"] = tasks.Conduct{Tenant: "acme", Version: m.kept["acme"].Version + 1, Data: pack(&c)}
		w.See(&Visit{Tenant: "acme", Jobs: 1})
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	allowed := func() (n int) {
		for range 20 {
			if w.Allow("acme") == nil {
				n++
			}
		}
		return n
	}
	for _, row := range []struct {
		rung Action
		want int
	}{{Observe, 20}, {Throttle, 5}, {Refuse, 0}, {Review, 20}, {Refuse, 0}} {
		now = now.Add(time.Minute)
		at(row.rung)
		if got := allowed(); got != row.want {
			t.Errorf("%s: %d of 20 submits are let in, want %d", row.rung, got, row.want)
		}
	}
	var e *AbnormalError
	if err := w.Allow("acme"); !errors.As(err, &e) || e.RetryAfter <= 0 || e.Action != Refuse {
		t.Errorf("refused with %v", err)
	}
	if w.Allow("other") != nil {
		t.Error("another tenant is refused")
	}
	m.down = true
	w.See(&Visit{Tenant: "acme", Jobs: 1})
	if w.Flush(t.Context()) == nil || allowed() != 20 {
		t.Error("while the store is away a tenant is refused")
	}
	m.down = false
	now = now.Add(time.Minute)
	at(Refuse)
	if err := w.Release(t.Context(), "acme", tasks.Act{}); err != nil || allowed() != 20 {
		t.Errorf("released, it is refused: %v", err)
	}
}

// An alarm of two signals is told to the metrics once while it lasts, and one signal alone never.
func TestAlarmsAreCounted(t *testing.T) {
	t.Parallel()
	m := &memory{kept: map[string]tasks.Conduct{}}
	now := morning
	w, err := New(Config{Store: m, Secret: []byte("secret"), Registerer: prometheus.NewRegistry(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []float64{0, 1, 1, 2} {
		now = now.Add([]time.Duration{0, 30 * time.Second, 20 * time.Minute, time.Hour}[n])
		c := Conduct{Since: 1, Window: number(now, time.Minute), Version: conductVersion, Ladder: ladder{Alarm: n > 0}}
		m.kept["acme"] = tasks.Conduct{Tenant: "acme", Version: m.kept["acme"].Version + 1, Data: pack(&c)}
		w.See(&Visit{Tenant: "acme", Jobs: 1})
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := testutil.ToFloat64(w.alarms); got != want {
			t.Errorf("at %s: %v alarms are counted, want %v", now.Format(time.TimeOnly), got, want)
		}
	}
}

// A process that sees no submit of a tenant under review goes on with it since its start: its jobs wait
// on until an admin releases it, or until nobody enforces it.
func TestAReviewGoesOnAndEnds(t *testing.T) {
	t.Parallel()
	now := morning
	m := &memory{kept: map[string]tasks.Conduct{}}
	review := func() {
		c := Conduct{Since: now.Unix(), Window: number(now, time.Minute), Version: conductVersion, Ladder: ladder{Rung: Review}}
		m.kept["acme"] = tasks.Conduct{Tenant: "acme", Version: m.kept["acme"].Version + 1, Data: pack(&c), Found: true}
	}
	open := func(enforce bool) *Watch {
		w, err := New(Config{Store: m, Secret: []byte("secret"), Enforce: enforce, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	stands := func(w *Watch, after, want time.Duration) {
		t.Helper()
		now = now.Add(after)
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := m.kept["acme"].Held; got != want {
			t.Errorf("after %s its jobs wait for %s more, want %s", after, got, want)
		}
	}
	review()
	w := open(true)
	stands(w, time.Minute, reviewFor)
	stands(w, 29*24*time.Hour, reviewFor)
	if w.Allow("acme") != nil {
		t.Error("under review a submit is refused")
	}
	if f, err := w.Of(t.Context(), "acme"); err != nil || f.Action != Review {
		t.Errorf("a month later it stands at %s, %v", f.Action, err)
	}
	if told, err := w.All(t.Context()); err != nil || len(told) != 1 {
		t.Errorf("admins are told of %d, %v", len(told), err)
	}
	review()
	stands(open(false), time.Minute, 0)
}
