package quota_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// What Redis refuses of the script leaves the account as it is, or has it changed whole.
func TestNoScriptMovesByHalves(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]int64{"a submit": 0, "another": 1, "after a minute": 61_000, "a user's": 0, "another of a user's": 1, "a user's after a minute": 61_000} {
		owner := "acme"
		if strings.Contains(name, "user") {
			owner = ada
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.New(t)
			watched := redis.NewClient(rdb.Options())
			t.Cleanup(func() { _ = watched.Close() })
			seen := redistest.Watch(watched)
			c := newClock()
			q := opensUsers(t, watched, c, 10, 10)
			admit := func(n int64) {
				t.Helper()
				if _, err := q.Admit(t.Context(), owner, n); err != nil {
					t.Fatal(err)
				}
			}
			if second > 0 {
				admit(4)
				c.ms.Add(second)
			}
			before := redistest.Read(t, rdb)
			seen.Since()
			admit(3)
			calls := seen.Since()
			if len(calls) != 1 || seen.Script(t, calls[0], ".") != "admit" {
				t.Fatalf("%d scripts were called", len(calls))
			}
			redistest.Refuse(t, rdb, before, calls[0], nil, func(r redistest.Refused) {
				if r.Half() {
					t.Error(r)
				}
			})
		})
	}
}
