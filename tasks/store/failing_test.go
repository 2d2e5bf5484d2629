package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// Endpoints that fail are listed whosever they are, and where their addresses cannot be opened too; those that have healed, and
// hosts of jobs' own addresses, are not.
func TestFailingEndpointsOfEverybodyAreListed(t *testing.T) {
	t.Parallel()
	rdb := redistest.New(t)
	s := sealing(t, rdb, "a")
	for i, tenant := range []string{"acme", "globex", "healed"} {
		id := fmt.Sprint("whe_", tenant)
		_, err := s.CreateEndpoint(t.Context(), tasks.Endpoint{ID: id, Tenant: tenant, URL: "https://" + tenant + ".example/in", Events: []string{"job.failed"}})
		must(t, err)
		must(t, rdb.ZAdd(t.Context(), "sluice:{s}:wbad", redis.Z{Score: float64(i + 1), Member: id}, redis.Z{Score: 9, Member: "acme|host.example"}).Err())
		if tenant != "healed" {
			must(t, rdb.HSet(t.Context(), "sluice:{s}:wh:"+id, "bad", 1000).Err())
		}
	}
	for who, c := range map[*store.Store]string{
		s:                    "[globex https://globex.example/in acme https://acme.example/in]",
		sealing(t, rdb, "b"): "[globex  acme ]",
	} {
		list, err := who.FailingEndpoints(t.Context(), 10)
		must(t, err)
		var got []string
		for _, e := range list {
			got = append(got, e.Tenant, e.URL)
			if !e.FailingSince.Equal(time.UnixMilli(1000)) {
				t.Errorf("%s fails since %s", e.Tenant, e.FailingSince)
			}
		}
		if fmt.Sprint(got) != c {
			t.Errorf("%q, want %s", got, c)
		}
	}
}

// A process is listed while it says that it is there, and for a minute longer.
func TestProcessesAreListed(t *testing.T) {
	t.Parallel()
	rdb, at := redistest.New(t), time.UnixMilli(1_800_000_000_000).UTC()
	now := func() time.Time { return at }
	process := func(name string) *store.Store { return store.New(store.Config{Redis: rdb, Now: now, Process: name}) }
	one, other := process("0.2.0 b (process 1, X)"), process("0.2.1 a")
	want := func(want string) {
		t.Helper()
		list, err := one.Processes(t.Context())
		must(t, err)
		var got []string
		for _, p := range list {
			got = append(got, fmt.Sprintf("%s|%s|%t|%s", p.Name, p.Version, p.Works, at.Sub(p.Seen)))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%q, want %s", got, want)
		}
	}
	for who, works := range map[*store.Store]bool{one: true, other: false, process(""): true} {
		_, err := who.Watch(t.Context(), works, pool)
		must(t, err)
	}
	at = at.Add(59 * time.Second)
	_, err := other.Watch(t.Context(), false, pool)
	must(t, err)
	want("[a|0.2.1|false|0s b (process 1, X)|0.2.0|true|59s]")
	at = at.Add(2 * time.Second)
	_, err = other.Watch(t.Context(), false, pool)
	must(t, err)
	want("[a|0.2.1|false|0s]")
}
