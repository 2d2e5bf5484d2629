package limit

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// halves are what each script does: what comes before it, and the move.
var halves = map[string]func(c *manual) func() error{
	"take": func(c *manual) func() error {
		c.wait(Need{Class: "c", InputTokens: 10, MaxTokens: 20})
		return func() error { c.ask(c.g, Need{ID: "b", Class: "d", InputTokens: 10, MaxTokens: 20}); return nil }
	},
	"take, a slot": func(c *manual) func() error {
		c.full()
		return func() error { c.ask(c.g, Need{ID: "b", Class: "d"}); return nil }
	},
	"settle": func(c *manual) func() error {
		_, grant := c.ask(c.g, Need{Class: "c", InputTokens: 10, MaxTokens: 20})
		c.t++
		return func() error {
			return c.g.Settle(c.Context(), grant, Actual{InputTokens: 5, OutputTokens: 6, Known: true, Observed: &Observed{Requests: reading(60, 2)}})
		}
	},
	"settle, an input": func(c *manual) func() error {
		_, grant := c.ask(c.g, Need{Class: "c", InputTokens: 10, MaxTokens: 20})
		return func() error { return c.g.SettleInput(c.Context(), grant, 5, nil) }
	},
	"settle, with others in line": func(c *manual) func() error {
		grant := c.full()
		return func() error {
			return c.g.Settle(c.Context(), grant, Actual{InputTokens: 5, OutputTokens: 6, Known: true})
		}
	},
	"renew": func(c *manual) func() error {
		c.full()
		c.t++
		return func() error { return c.g.renew(c.Context(), "") }
	},
	"steer": func(c *manual) func() error {
		c.full()
		return func() error { return c.g.Hold(c.Context(), time.Second, "x") }
	},
	"leave": func(c *manual) func() error {
		c.full()
		return func() error { c.g.leaveLine(c.Context()); return nil }
	},
	"peek": func(c *manual) func() error {
		c.full()
		c.t++
		return func() error { _, err := c.g.peek(c.Context()); return err }
	},
	"describe": func(c *manual) func() error {
		c.full()
		c.t++
		return func() error { _, err := c.g.State(c.Context()); return err }
	},
}

// full has all places for calls taken, and the gate stand in line for the next.
func (c *manual) full() (last Grant) {
	c.Helper()
	for range 3 {
		answer, grant := c.ask(c.g, Need{Class: "c", InputTokens: 10, MaxTokens: 20})
		if answer.status != "ok" {
			return last
		}
		last = grant
	}
	c.Fatal("there is always a place")
	return last
}

// A script that Redis refuses something has changed nothing. Where a key is of another
// type than it should be, the whole state counts as lost; every script is tried.
func TestNoScriptMovesByHalves(t *testing.T) {
	t.Parallel()
	names := make(chan string, len(halves))
	t.Run("scripts", func(t *testing.T) {
		for name, row := range halves {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				rdb := redistest.New(t)
				watched := redis.NewClient(rdb.Options())
				t.Cleanup(func() { _ = watched.Close() })
				seen := redistest.Watch(watched)
				c := onClock(t, watched, Limits{RequestsPerMinute: 6000, InputTokensPerMinute: 60_000, OutputTokensPerMinute: 60_000, Concurrency: 2})
				act := row(c)
				before := redistest.Read(t, rdb)
				script, _, _ := strings.Cut(name, ",")
				call := seen.Once(t, "lua", script, act)
				names <- script
				if err := errors.Join(rdb.FlushAll(t.Context()).Err(), rdb.Do(t.Context(), call...).Err()); err != nil {
					t.Fatal(err)
				}
				lost := redistest.Read(t, rdb)
				redistest.Refuse(t, rdb, before, call, nil, func(r redistest.Refused) {
					switch {
					case r.Key == "" && len(r.Moved) > 0 && r.Half():
						t.Error(r)
					case r.Key != "" && (r.Err != nil || len(r.State.Differs(lost, "")) > 0):
						t.Errorf("%v; other than with no state: %v", r, r.State.Differs(lost, ""))
					}
				})
			})
		}
	})
	close(names)
	var tried []string
	for name := range names {
		tried = append(tried, name)
	}
	if len(tried) < 5 {
		return // -run has chosen some
	}
	chapters := strings.Fields("state pace guard ledger learn book line")
	for _, file := range redistest.Scripts(t, "lua") {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "lua/"), ".lua")
		if !slices.Contains(tried, name) && !slices.Contains(chapters, name) {
			t.Errorf("no row tries %s", file)
		}
	}
}
