package main

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
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
		environ := []string{"SLUICE_URL=" + r.url, "SLUICE_TOKEN=" + r.token}
		for args, want := range map[string]string{
			"pools":         `(?m)^claude +` + p.State + ` .* 11 +2 +0 +\S+ +` + string(why) + ` `,
			"top --count 1": ` pool claude state=` + p.State + ` queued=11 later=2 running=0 oldest=\S+ for=` + string(why) + ` allowance="\w`,
		} {
			if code, stdout, stderr := invoke(t, "", environ, strings.Fields(args)...); code != 0 || !regexp.MustCompile(want).MatchString(stdout) {
				t.Errorf("sluice %s: code %d, %s; want %s; stderr %q", args, code, stdout, want, stderr)
			}
		}
	}
	shellReads(t, r, last.ID)
}

// shellReads has each command of the shell that reads an answer read one of the API itself: an
// answer of a test's own may be of another form.
func shellReads(t *testing.T, r *stage, job string) {
	t.Helper()
	var made struct{ ID string }
	r.call("POST", "/v1/batches", `{"jobs":[`+hello+`]}`, &made)
	r.call("POST", "/v1/tokens", `{"tenant":"acme","scope":"jobs:read","ttl":"1h","name":"the shell"}`, &struct{}{})
	for args, want := range map[string]string{
		"jobs":                     `(?m)^` + job + ` +queued +\S+ +claude +\S+Z +paused +-$`,
		"jobs --json":              `(?m)^{"id":"` + job + `",`,
		"get " + job:               `^{"id":"` + job + `",`,
		"explain " + job:           `(?m)^\S+ \S+ +[0-9.]+ +waiting `,
		"batch list":               `(?m)^` + made.ID + ` +in_progress +\S+Z +1 +1 +0 +0 +0 +0 +0$`,
		"batch get " + made.ID:     `^{"id":"` + made.ID + `",`,
		"deliveries":               `^ID +STATUS `,
		"pools tenants claude":     `(?m)^acme +1 .* \d+ +0$`,
		"pools audit claude":       `(?m)^\S+Z +pause +ann +- +the bill$`,
		"tenants":                  `(?m)^acme +1 +600 +14/100000 `,
		"tokens":                   `(?m)^tok_\S+ +acme +the shell +jobs:read +- +- +\S+Z +-$`,
		"abuse":                    `^TENANT +RULE `,
		"batch results " + made.ID: `^$`,
	} {
		environ := []string{"SLUICE_URL=" + r.url, "SLUICE_TOKEN=" + r.token}
		if code, stdout, stderr := invoke(t, "", environ, strings.Fields(args)...); code != 0 || stderr != "" || !regexp.MustCompile(want).MatchString(stdout) {
			t.Errorf("sluice %s: code %d, %s; want %s; stderr %q", args, code, stdout, want, stderr)
		}
	}
}

// What calls took and cost, and what went wrong, is the same in the API and on the console's pages.
func TestUsageAndMishapsAreToldAlike(t *testing.T) {
	t.Parallel()
	r := fronted(t, configured(t, redistest.Start(t, redistest.Options{}).URL(), claude("http://127.0.0.1:1")))
	for _, e := range []tasks.Ending{
		{Status: tasks.StatusSucceeded, Result: []byte(`{"content":[]}`), Usage: &tasks.Usage{InputTokens: 1234, OutputTokens: 56}, Attempt: tasks.Attempt{
			Outcome: tasks.Succeeded, Status: 200, Usage: &tasks.Usage{InputTokens: 1234, OutputTokens: 56}, Cost: &tasks.Cost{Amount: 7_000_000, Maybe: 1_000_000},
		}},
		{Status: tasks.StatusRetrying, Counted: true, Delay: time.Hour, Attempt: tasks.Attempt{Outcome: tasks.RateLimited, Status: 429}},
		{Status: tasks.StatusFailed, Counted: true, Error: &tasks.JobError{Code: tasks.UpstreamRejected, Message: "no"}, Attempt: tasks.Attempt{Outcome: tasks.Rejected, Status: 400}},
	} {
		_, tickets, err := r.s.store.Create(t.Context(), tasks.Submission{Job: tasks.Job{
			ID: store.NewID("job"), Tenant: "acme", Pool: "claude", Model: "claude-x", Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"hi"`), MaxTokens: 16},
		}})
		if err != nil || len(tickets) != 1 {
			t.Fatal(tickets, err)
		}
		k := tickets[0]
		k.Asks = tasks.Asked{Account: "anthropic", Model: "claude-x"}
		if _, err = r.s.store.Take(t.Context(), k); err == nil {
			_, _, err = r.s.store.Start(t.Context(), k)
		}
		if err == nil {
			_, err = r.s.store.End(t.Context(), k, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var usage struct {
		Data []struct {
			Key      string
			Requests int64
			In       int64 `json:"input_tokens"`
			Out      int64 `json:"output_tokens"`
			Cost     struct {
				Amount, Maybe any
				Currency      string
			}
		}
	}
	r.call("GET", "/v1/usage?group=model", "", &usage)
	u := usage.Data[0]
	grouped := strings.Replace(fmt.Sprint(u.In), "1", "1\u202f", 1)
	row := fmt.Sprintf(`<th scope="row">%s</th><td>%d</td><td>%s</td><td>%d</td><td>0</td><td>%v %s</td><td>%v</td>`, u.Key, u.Requests, grouped, u.Out, u.Cost.Amount, u.Cost.Currency, u.Cost.Maybe)
	if page := r.stream("/usage?tenant=acme"); u.Requests != 3 || u.In != 1234 || !has(page, row) {
		t.Errorf("the API says %+v; want 3 calls of 1234 tokens, and %s in\n%s", u, row, page)
	}
	var status struct {
		Pools []struct {
			Hour struct {
				Refused int64
			} `json:"last_hour"`
		}
	}
	r.call("GET", "/v1/status", "", &status)
	refused := status.Pools[0].Hour.Refused
	words := fmt.Sprintf("In the last hour %d of its calls was refused with 429; 1 other call failed: rejected; 1 job failed: upstream_rejected.", refused)
	for _, path := range []string{"/", "/console/pools", "/pools/claude"} {
		if page := r.stream(path); refused != 1 || !has(page, words) {
			t.Errorf("%s: the API counts %d; want 1, and %q in\n%s", path, refused, words, page)
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
