package drain

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

func TestProgressWithoutATerminalIsALineEachTenSeconds(t *testing.T) {
	var said bytes.Buffer
	c := &Config{Stderr: &said}
	p := newProgress(c, Options{}, 100)
	begun := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p.start(begun)
	for i := range 20 {
		j := &tasks.Job{Model: "m1", Status: tasks.StatusSucceeded, Finish: tasks.FinishComplete, Usage: &tasks.Usage{InputTokens: 1000, OutputTokens: 100},
			Log: []tasks.Attempt{{Cost: &tasks.Cost{Maybe: tasks.Unit / 1000}}, {Cost: &tasks.Cost{Amount: tasks.Unit / 500}}}}
		if i == 0 {
			j.Status, j.Finish = tasks.StatusFailed, ""
		}
		p.spend(j)
		p.count(j, nil)
	}
	for ms := 0; ms <= 25_000; ms += 200 {
		p.paint(begun.Add(time.Duration(ms) * time.Millisecond))
	}
	want := "sluice: 20/100  1 failed  2.0/s  40s left  20000 input and 2000 output tokens, $0.0400 and perhaps $0.0200 more\n" +
		"sluice: 20/100  1 failed  1.0/s  1m20s left  20000 input and 2000 output tokens, $0.0400 and perhaps $0.0200 more\n"
	if said.String() != want {
		t.Errorf("said\n%swant\n%s", &said, want)
	}
	quiet := newProgress(c, Options{NoProgress: true}, 100)
	said.Reset()
	quiet.paint(begun.Add(time.Hour))
	if said.Len() > 0 {
		t.Errorf("--no-progress says %s", &said)
	}
	var terminal bytes.Buffer
	c.Bar = &terminal
	p = newProgress(c, Options{}, 2)
	p.start(begun)
	p.count(&tasks.Job{Status: tasks.StatusSucceeded}, nil)
	p.paint(begun.Add(time.Second))
	if got := terminal.String(); !strings.HasPrefix(got, "\r\033[K\033[?7l[===============               ] 50 %  1/2  0 failed  1.0/s  1s left") {
		t.Errorf("the bar is %q", got)
	}
	p.say("something")
	if !strings.HasSuffix(terminal.String(), "\r\033[K") || said.String() != "something\n" {
		t.Errorf("%q, %q", terminal.String(), said.String())
	}
	// A run that is interrupted has no last bar; one that is done is left at 100 %.
	terminal.Reset()
	if p.last(begun.Add(2 * time.Second)); terminal.Len() > 0 {
		t.Errorf("half done, it ends with %q", terminal.String())
	}
	p.count(&tasks.Job{Status: tasks.StatusSucceeded}, nil)
	p.last(begun.Add(2 * time.Second))
	p.say("all done")
	if got := terminal.String(); !strings.HasPrefix(got, "\r\033[K\033[?7l[==============================] 100 %  2/2  0 failed  1.0/s  0s left  ") || !strings.HasSuffix(got, "\033[?7h\n") {
		t.Errorf("done, it ends with %q", got)
	}
}

// record has one job.
type record struct {
	Record
	job tasks.Job
}

func (r record) Job(context.Context, string, string) (tasks.Job, error) { return r.job, nil }

// TestAWaitOfAMinuteIsSaidWithItsReason was: a day-long hold was silent.
func TestAWaitOfAMinuteIsSaidWithItsReason(t *testing.T) {
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	begun := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		pool    tasks.PoolStatus
		waiting tasks.Waiting
		err     *tasks.JobError
		want    string
	}{
		"held": {
			tasks.PoolStatus{Name: "p", State: tasks.PoolDegraded}, tasks.Waiting{For: tasks.WaitRequests, EstimatedStart: until},
			&tasks.JobError{Message: "rate_limit_error: requests per day"},
			`sluice: nothing has come for 1m1s: 2 jobs of pool p wait for the provider's allowance of requests, for the provider holds the pool back, until about ` + until.Format(time.RFC3339) + `; the last answer: "rate_limit_error: requests per day"` + "\n",
		},
		"paused": {
			tasks.PoolStatus{Name: "p", State: tasks.PoolPaused, Reason: "connection refused"}, tasks.Waiting{For: tasks.WaitPaused},
			nil, "sluice: nothing has come for 1m1s: 2 jobs of pool p wait, for the pool is paused: connection refused\n",
		},
		"not before": {tasks.PoolStatus{Name: "p"}, tasks.Waiting{For: tasks.WaitNotBefore}, nil, "sluice: nothing has come for 1m1s: 2 jobs of pool p wait for the time that was asked for\n"},
		"one runs":   {tasks.PoolStatus{Name: "p", Running: 1}, tasks.Waiting{For: tasks.WaitRequests}, nil, "sluice: nothing has come for 1m1s: 1 calls of pool p are under way without an answer, each given up 10m0s after it was sent\n"},
	} {
		var said bytes.Buffer
		r := newRunner(&Config{Stderr: &said, Pools: []Pool{{Name: "p", Timeout: 10 * time.Minute}}}, Options{}, nil, nil, nil, 2)
		r.start(begun)
		r.s = &Service{
			Record:  record{job: tasks.Job{Error: c.err}},
			Waiting: func(context.Context, tasks.Job) (tasks.Waiting, error) { return c.waiting, nil },
			Status: func(context.Context) ([]tasks.PoolStatus, error) {
				return []tasks.PoolStatus{c.pool, {Name: "other"}}, nil
			},
		}
		for _, id := range []string{"a", "b"} {
			r.open[id] = prompt{Job: tasks.Job{Pool: "p"}}
		}
		for _, s := range []int{59, 61, 62, 100} {
			r.sayWaits(t.Context(), begun.Add(time.Duration(s)*time.Second))
		}
		if got := said.String(); got != c.want {
			t.Errorf("%s: said\n%swant\n%s", name, got, c.want)
		}
		// Again when it has doubled, and not after an answer.
		r.sayWaits(t.Context(), begun.Add(121*time.Second))
		if n := strings.Count(said.String(), "\n"); n != 2 {
			t.Errorf("%s: %d lines after two minutes", name, n)
		}
		r.spend(&tasks.Job{})
		r.moved = begun.Add(122 * time.Second)
		r.sayWaits(t.Context(), begun.Add(130*time.Second))
		if n := strings.Count(said.String(), "\n"); n != 2 {
			t.Errorf("%s: %d lines after an answer", name, n)
		}
	}
}
