package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// API, console, metrics and the shell, which asks the API, say the same of a pool and of its jobs
// at one moment: how many wait, how many are for later, what for, and in which state it is.
func TestEverybodyToldOfAPoolIsToldTheSame(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	cfg := configured(t, server.URL(), claude("http://127.0.0.1:1"))
	r := fronted(t, cfg)
	type told struct {
		ID, State string
		For       string `json:"waiting_for"`
		Queued    int64
		Scheduled int64
		Waiting   struct{ For string }
		Data      []told
	}
	var last told
	for i := range 13 {
		body := hello
		if i < 2 {
			body = strings.Replace(hello, "{", fmt.Sprintf(`{"not_before":%q,`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), 1)
		}
		if res := r.call("POST", "/v1/jobs", body, &last); res.StatusCode != http.StatusAccepted {
			t.Fatal(res.Status)
		}
	}
	for _, why := range []tasks.WaitReason{tasks.WaitNoWorker, tasks.WaitPaused} {
		if why == tasks.WaitPaused {
			r.call("POST", "/v1/pools/claude/pause", `{"reason":"the bill"}`, &struct{}{})
		}
		var job, pools told
		redistest.Until(t, "the job says that it waits for "+string(why), func() bool {
			r.call("GET", "/v1/jobs/"+last.ID, "", &job)
			return job.Waiting.For == string(why)
		})
		r.call("GET", "/v1/pools", "", &pools)
		p := pools.Data[0]
		if p.For != string(why) || p.Queued != 13 || p.Scheduled != 2 {
			t.Errorf("the API says %+v; want 13 that wait, 2 of them for later, for %s", p, why)
		}
		for _, path := range []string{"/pools/claude", "/jobs/" + last.ID} {
			wants := []string{why.Words().For}
			if path == "/pools/claude" {
				wants = []string{"<dd>" + why.Words().Name + "</dd>", "11 jobs wait for", "2 jobs are for later.", ">" + p.State + "<"}
			}
			if page := r.stream(path); !has(page, wants...) {
				t.Errorf("%s: want %q in\n%s", path, wants, page)
			}
		}
		if n := r.gauge("sluice_backlog_jobs"); n != float64(p.Queued) {
			t.Errorf("the metric counts %v, the API %d", n, p.Queued)
		}
	}
}

// has reports whether a text has all of these.
func has(text string, wants ...string) bool {
	for _, w := range wants {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
