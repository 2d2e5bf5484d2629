package store_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// What goes wrong is counted by its cause for an hour, with the last job that it happened to, whether content is sealed or
// not; what goes well is not.
func TestMishapsAreCountedForAnHour(t *testing.T) {
	t.Parallel()
	for _, keys := range [][]string{nil, {"a"}} {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		c := store.Config{Redis: redistest.New(t), ResultTTL: time.Hour, Depth: map[string]int{pool: 8, "q": 8}, Now: func() time.Time { return now }}
		if keys != nil {
			c.Seal = ringOf(t, keys...)
		}
		s := store.New(c)
		ends := func(e tasks.Ending) string {
			j, tickets := create(t, s, job("acme"))
			take(t, s, tickets[0])
			start(t, s, tickets[0])
			_, err := s.End(t.Context(), tickets[0], e)
			must(t, err)
			return j.ID
		}
		want := func(when string, want tasks.Mishaps) {
			t.Helper()
			got, err := s.Mishaps(t.Context(), now, pool, "q")
			must(t, err)
			if !reflect.DeepEqual(got, map[string]tasks.Mishaps{pool: want, "q": {}}) {
				t.Errorf("sealed by %v, %s: %+v\nwant %+v", keys, when, got, want)
			}
		}
		refused := tasks.Ending{Status: tasks.StatusRetrying, Counted: true, Delay: 5 * time.Hour, Attempt: tasks.Attempt{Outcome: tasks.RateLimited, Status: 429}}
		ends(won)
		ends(tasks.Ending{Status: tasks.StatusRetrying, Delay: 5 * time.Hour, Attempt: tasks.Attempt{Outcome: tasks.HandedBack}})
		want("at first", tasks.Mishaps{})
		ends(refused)
		again := ends(refused)
		want("after two refusals", tasks.Mishaps{Calls: []tasks.Mishap{{Cause: "rate_limited", Count: 2, Last: again}}})

		now = now.Add(7 * time.Minute)
		last := ends(refused)
		failed := ends(tasks.Ending{
			Status: tasks.StatusFailed, Counted: true, Error: &tasks.JobError{Code: tasks.UpstreamRejected, Message: `"code":"none"`}, Attempt: tasks.Attempt{Outcome: tasks.Rejected, Status: 400},
		})
		j := job("acme")
		j.Deadline = now.Add(time.Second)
		late, _ := create(t, s, j)
		away, _ := create(t, s, withFallbacks("m2"))
		_, _, err := s.Divert(t.Context(), pool, map[string]tasks.Detour{away.ID: {Pool: "q", Passed: 1}})
		must(t, err)
		now = now.Add(2 * time.Second)
		_, err = s.Sweep(t.Context())
		must(t, err)
		newer := tasks.Mishaps{
			Calls:    []tasks.Mishap{{Cause: "rate_limited", Count: 1, Last: last}, {Cause: "rejected", Count: 1, Last: failed}},
			Jobs:     []tasks.Mishap{{Cause: "deadline_exceeded", Count: 1, Last: late.ID}, {Cause: "upstream_rejected", Count: 1, Last: failed}},
			Diverted: []tasks.Mishap{{Cause: "q", Count: 1, Last: away.ID}},
		}
		all := newer
		all.Calls = []tasks.Mishap{{Cause: "rate_limited", Count: 3, Last: last}, {Cause: "rejected", Count: 1, Last: failed}}
		want("after seven minutes", all)
		if all.Refused() != 3 {
			t.Errorf("%d calls were refused, want 3", all.Refused())
		}
		now = now.Add(53 * time.Minute)
		want("an hour after the first", newer)
		// The same five minutes of the next hour count anew.
		now = now.Add(5 * time.Minute)
		again = ends(refused)
		want("an hour after the second", tasks.Mishaps{Calls: []tasks.Mishap{{Cause: "rate_limited", Count: 1, Last: again}}})
		must(t, c.Redis.Set(t.Context(), "sluice:{s}:mis:"+pool, "x", 0).Err())
		ends(refused)
		want("where another type stands", tasks.Mishaps{})
	}
}
