package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestTheClockGoesByRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testTheClock) // no time passes
}

func testTheClock(t *testing.T) {
	near := func(what string, got, want time.Time) {
		t.Helper()
		if d := got.Sub(want).Abs(); d > 0 {
			t.Errorf("%s: %v off", what, d)
		}
	}
	var c clock
	begun := time.Now()
	near("before Redis has said anything", c.Now(), begun)
	c.heard(time.Time{}, begun, begun)
	near("after an answer without a time", c.Now(), begun)
	// The answer was under way for 200 ms; Redis looked in the middle.
	c.heard(begun.Add(time.Hour), begun.Add(-200*time.Millisecond), begun)
	near("an hour ahead", c.Now(), begun.Add(time.Hour+100*time.Millisecond))
	c.heard(begun.Add(2*time.Hour), begun.Add(-slowReading-1), begun)
	near("after an answer that was long under way", c.Now(), begun.Add(time.Hour+100*time.Millisecond))
	c.heard(begun.Add(-time.Hour), begun, begun)
	near("an hour behind", c.Now(), begun.Add(-time.Hour))
}

// A process whose clock is an hour off that of Redis gives the answers of one whose is right.
func TestAProcessWhoseClockIsAnHourOffAnswersAlike(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(fmt.Sprint("Redis is ahead by ", off), func(t *testing.T) {
			t.Parallel()
			now := func() time.Time { return time.Now().Add(off) }
			provider := newWire(t, recorded(t, "anthropic/text"))
			server := redistest.Start(t, redistest.Options{})
			r := outageAt(t, server, "", claude(provider.URL), now)
			body := func(member string, in time.Duration) string {
				return strings.Replace(hello, "{", fmt.Sprintf(`{%q:%q,`, member, now().Add(in).Format(time.RFC3339Nano)), 1)
			}
			for _, path := range []string{"/v1/jobs", "/v1/batches"} {
				for in, want := range map[time.Duration]int{-time.Second: 422, 40 * time.Second: 202} {
					line := body("deadline", in)
					if path == "/v1/batches" {
						line = `{"jobs":[` + line + `]}`
					}
					var answer struct{ ID, Code string }
					if res := r.call("POST", path, line, &answer); res.StatusCode != want {
						t.Errorf("%s with a deadline in %v: %s %s, want %d", path, in, res.Status, answer.Code, want)
					}
				}
			}
			var later struct {
				ID      string
				Waiting struct {
					For   string
					Start time.Time `json:"estimated_start"`
				}
			}
			// The forecast of one that waits, and of one that is for later.
			r.call("POST", "/v1/jobs", body("not_before", 20*time.Minute), &later)
			if later.Waiting.For != "not_before" {
				t.Errorf("in 20 min: %+v, want it to wait for not_before", later)
			}
			id, err := ulid.ParseStrict(strings.TrimPrefix(later.ID, "job_"))
			if d := now().Sub(id.Timestamp()); err != nil || d.Abs() > 10*time.Second {
				t.Errorf("id %s: %v, %v ago", later.ID, err, d)
			}
			r.call("POST", "/v1/pools/claude/pause", `{"reason":"a look"}`, &struct{}{})
			waits := r.submit()
			r.until("it waits", func() bool {
				r.call("GET", "/v1/jobs/"+waits, "", &later)
				return later.Waiting.For == "paused"
			})
			if age := r.gauge("sluice_backlog_oldest_seconds"); age > 60 {
				t.Errorf("the oldest job is %v s old, want some seconds", age)
			}
			r.call("POST", "/v1/pools/claude/resume", "", &struct{}{})
			if j := r.final(waits); j.Status != "succeeded" {
				t.Errorf("the job: %+v", j)
			}
		})
	}
}
