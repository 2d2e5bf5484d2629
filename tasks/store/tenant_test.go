package store_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

func ptr[T any](v T) *T { return &v }

// What an operator sets is what every process reads within a second, and what the order of work
// goes by at once, whatever a process that has not read it yet submits; the audit has before and after.
func TestWhatAnOperatorSetsOfATenantHolds(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{"acme": 1})
	other := store.NewSettings(l.rdb, "")
	must(t, other.Refresh(t.Context()))
	l.submit("acme", pool, 6)
	l.take()
	by := tasks.Act{At: l.now, By: "ada", Action: "set_tenant", Target: "acme"}
	must(t, l.SetTenant(t.Context(), "acme", tasks.TenantSettings{RunningJobs: ptr(int64(3)), CostPerDay: ptr(tasks.Unit / 2)}, 1, tasks.Places{Tenant: 3}, by))
	must(t, l.SetTenant(t.Context(), "acme", tasks.TenantSettings{RunningJobs: ptr(int64(3)), CostPerDay: ptr(tasks.Unit / 2)}, 1, tasks.Places{Tenant: 3}, by)) // a repeat
	must(t, other.Refresh(t.Context()))
	if got := other.Of("acme"); got.RunningJobs == nil || *got.RunningJobs != 3 || *got.CostPerDay != tasks.Unit/2 || got.Weight != nil {
		t.Errorf("another process reads %s", got)
	}
	l.second()
	l.take()
	if got := l.out("acme"); len(got) != 3 {
		t.Errorf("with a limit of 3 since a second, %d are out", len(got))
	}
	l.submit("acme", pool, 1) // by a process that still has 1
	if _, err := l.Load(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if got := l.rdb.HGet(t.Context(), "sluice:{s}:weight", "\tacme").Val(); !strings.HasPrefix(got, "3 r") {
		t.Errorf("the limit is %q after a submit of a process that has not read it", got)
	}
	l.most["acme"] = 3
	l.now = l.now.Add(6 * time.Second)
	l.submit("acme", pool, 1) // all have read it
	if got := l.rdb.HGet(t.Context(), "sluice:{s}:weight", "\tacme").Val(); got != "3" {
		t.Errorf("the limit is noted as %q once every process has it", got)
	}
	by.At = l.now // acts of one ms stand in no order
	must(t, l.SetTenant(t.Context(), "acme", tasks.TenantSettings{}, 1, tasks.Places{Tenant: 1}, by))
	must(t, other.Refresh(t.Context()))
	if got := other.Of("acme").String(); got != "{}" {
		t.Errorf("after all was taken back, %s is set", got)
	}
	page, err := l.Acts(t.Context(), "", 10)
	must(t, err)
	if len(page.Acts) != 2 || page.Acts[1].Reason != `{} → {"running_jobs":3,"cost_per_day":0.5}` || page.Acts[0].Reason != `{"running_jobs":3,"cost_per_day":0.5} → {}` {
		t.Errorf("the audit has %+v", page.Acts)
	}
}

// Known are tenants by their names, of whom anything is known, a page at a time.
func TestTenantsAreListed(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, map[string]int64{})
	l.submit("mid", pool, 1)
	must(t, l.SetTenant(t.Context(), "zoe", tasks.TenantSettings{Weight: ptr(int64(2))}, 2, tasks.Places{Tenant: 0}, tasks.Act{At: l.now}))
	var got []string
	for after := ""; ; {
		page, err := l.KnownTenants(t.Context(), []string{"acme", "mid"}, after, 2)
		must(t, err)
		for _, one := range page.Tenants {
			got = append(got, one.Name+one.Settings.String())
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if s := strings.Join(got, " "); s != `acme{} mid{} zoe{"weight":2}` {
		t.Errorf("listed %s", s)
	}
}

// late holds the answer of the first HGETALL back.
type late struct {
	twice
	first         *atomic.Bool
	read, release chan struct{}
}

func (l late) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "hgetall" && l.first.CompareAndSwap(false, true) {
			close(l.read)
			<-l.release
		}
		return err
	}
}

// A slow read that began before something was set does not put back what stood there.
func TestASlowReadPutsNoSettingsBack(t *testing.T) {
	t.Parallel()
	l := newPlacing(t, nil)
	slow := redis.NewClient(l.rdb.Options())
	defer slow.Close()
	held := late{first: new(atomic.Bool), read: make(chan struct{}), release: make(chan struct{})}
	slow.AddHook(held)
	set := store.NewSettings(slow, "")
	by := tasks.Act{At: l.now, By: "ada", Action: "set_tenant", Target: "acme"}
	must(t, l.SetTenant(t.Context(), "acme", tasks.TenantSettings{RunningJobs: ptr(int64(1))}, 1, tasks.Places{Tenant: 1}, by))
	done := make(chan error)
	go func() { done <- set.Refresh(t.Context()) }()
	<-held.read
	must(t, l.SetTenant(t.Context(), "acme", tasks.TenantSettings{RunningJobs: ptr(int64(3))}, 1, tasks.Places{Tenant: 3}, by))
	must(t, set.Refresh(t.Context()))
	close(held.release)
	must(t, <-done)
	if got := set.Of("acme").String(); got != `{"running_jobs":3}` {
		t.Errorf("the settings are %s, want those that were set last", got)
	}
}
