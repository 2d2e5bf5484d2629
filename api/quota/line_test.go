package quota_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// Who was refused is told a later time than those before it, goes before who comes meanwhile, has its place when its
// time has come, and loses it when it stays away.
func TestWhoWasRefusedHasItsPlaceWhenItComesInTime(t *testing.T) {
	t.Parallel()
	c := newClock()
	rdb := redistest.New(t)
	r := at(t, rdb, c, 1).Returns()
	join := func(who string, again quota.Again) time.Duration {
		t.Helper()
		after, err := r.Join(t.Context(), "acme", "claude", who, again)
		if err != nil {
			t.Fatal(err)
		}
		return after
	}
	turn := func(who string, want quota.Turn) {
		t.Helper()
		if got, err := r.Turn(t.Context(), "acme", "claude", who); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", who, got, err, want)
		}
	}
	if r.Formed("acme", "claude") {
		t.Error("there is a line before anybody was refused")
	}
	second := quota.Again{After: 10 * time.Second, Each: 2 * time.Second}
	for i, who := range []string{"a", "b", "c"} {
		if got, want := join(who, second), time.Duration(10+2*i)*time.Second; got != want {
			t.Errorf("%s is told %s, want %s", who, got, want)
		}
	}
	if !r.Formed("acme", "claude") || r.Formed("acme", "gpt") || r.Formed("beta", "claude") {
		t.Error("the line is of another tenant or pool")
	}
	c.ms.Add(5000)
	turn("new", quota.Turn{Ahead: 3})
	turn("b", quota.Turn{Ahead: 1}) // too early
	if got := join("b", second); got != 7*time.Second {
		t.Errorf("who came too early is told %s, want what is left, 7s", got)
	}
	c.ms.Add(7000)
	turn("a", quota.Turn{Mine: true, Ahead: 1})
	turn("a", quota.Turn{Ahead: 2}) // it has had its turn
	if got := join("a", quota.Again{After: time.Second, Each: 2 * time.Second, Mine: true}); got != time.Second {
		t.Errorf("who had no place in its time is told %s, want 1s", got)
	}
	c.ms.Add(23_500)
	turn("new", quota.Turn{}) // all of them stayed away
	if r.Formed("acme", "claude") {
		t.Error("the line that nobody stands in is still asked about")
	}
	if got := join("z", quota.Again{After: 5 * time.Hour}); got < 5*time.Hour || got > 5*time.Hour+6*time.Minute {
		t.Errorf("told %s, want an hour and a bit", got)
	}
	if n, err := rdb.Exists(t.Context(), "sluice:quota:{acme}:line:claude").Result(); err != nil || n != 0 {
		t.Errorf("%d lines are left, %v", n, err)
	}
}

// What Redis refuses of the script leaves the line as it is, or has it changed whole.
func TestALineMovesByNoHalves(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(t *testing.T, r *quota.Returns) error{
		"joins": func(t *testing.T, r *quota.Returns) error {
			return second(r.Join(t.Context(), "acme", "claude", "b", quota.Again{After: time.Second}))
		},
		"has a turn": func(t *testing.T, r *quota.Returns) error { return second(r.Turn(t.Context(), "acme", "claude", "a")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.New(t)
			watched := redis.NewClient(rdb.Options())
			t.Cleanup(func() { _ = watched.Close() })
			seen := redistest.Watch(watched)
			r := at(t, watched, newClock(), 1).Returns()
			if _, err := r.Join(t.Context(), "acme", "claude", "a", quota.Again{}); err != nil {
				t.Fatal(err)
			}
			before := redistest.Read(t, rdb)
			seen.Since()
			if err := do(t, r); err != nil {
				t.Fatal(err)
			}
			calls := seen.Since()
			if len(calls) != 1 || seen.Script(t, calls[0], ".") != "line" {
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

func second[T any](_ T, err error) error { return err }
