package web

import (
	"context"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// operated is a site on which everything happens that an operator asks about. It returns with it a job that waits, one that
// runs and one that failed, all of a tenant that is not the operator's, and an endpoint of that tenant that is disabled.
func operated(t *testing.T) (s *jobsSite, waits, runs, failed, endpoint string) {
	t.Helper()
	d := &desk{
		shares: tasks.Shares{Tenants: []tasks.TenantShare{{Tenant: "acme", Weight: 1, Share: 0.75, Queued: 1, Running: 1}, {Tenant: "globex", Weight: 1, Share: 0.25}}},
		past:   tasks.Past{Binds: []tasks.Bind{{At: noon.Add(-9 * time.Hour), For: tasks.WaitPaused}, {At: noon.Add(-8 * time.Hour), For: tasks.WaitRequests}}},
		acts:   []tasks.PoolAct{{At: noon.Add(-time.Hour), Action: "pause", By: "ada", Reason: "the invoice"}},
	}
	var asked []string
	s = newJobsSite(t, func(c *Config) {
		c.Pools, c.Usage = d, ledger{&asked}
		c.Processes = func(context.Context) ([]tasks.Process, error) {
			return []tasks.Process{
				{Name: "worker-1", Version: "0.2.0", Works: true, Seen: noon.Add(-time.Second)}, {Name: "worker-2", Version: "0.1.0", Works: true, Seen: noon.Add(-30 * time.Second)},
				{Name: "api-1", Version: "0.2.1", Seen: noon},
			}, nil
		}
		c.Memory = func() (used, promised, most int64) { return 870 << 20, 20 << 20, 1 << 30 }
	})
	endpoint, _ = s.endpointThat("acme", tasks.Settled{
		Status: tasks.DeliveryExhausted, Counted: true, Reason: "gone", Disable: true, Attempt: tasks.DeliveryAttempt{At: noon, Outcome: "gone", Status: 410},
	})
	failed, waits, runs = s.job("acme", "claude-x", "fail"), s.job("acme", "claude-x", ""), s.job("acme", "claude-x", "run")
	w := s.Config.Handler.(*Web)
	for i := range 2 {
		s.set(tasks.PoolStatus{
			Name: "claude", State: tasks.PoolOpen, Queued: 1, Running: 1, WaitsFor: tasks.WaitInputTokens, DrainedAt: noon.Add(90 * time.Second), OldestQueuedAt: noon.Add(-75 * time.Second),
			Allowance: []tasks.Allowance{{Dimension: tasks.WaitRequests, Limit: 60, Used: float64(i) / 2}},
			Mishaps: tasks.Mishaps{
				Calls: []tasks.Mishap{{Cause: "rate_limited", Count: 12, Last: waits}, {Cause: "timeout", Count: 2, Last: waits}},
				Jobs:  []tasks.Mishap{{Cause: "upstream_rejected", Count: 3, Last: failed}}, Diverted: []tasks.Mishap{{Cause: "gpt", Count: 4, Last: waits}},
			},
		})
		w.look(t.Context())
	}
	return s, waits, runs, failed, endpoint
}

var link = regexp.MustCompile(`<a [^>]*href="([^"#]*)(?:#[^"]*)?"`)

// click follows the first link of a page whose address has a text.
func (s *jobsSite) click(jar http.CookieJar, page answer, to string) answer {
	s.t.Helper()
	for _, m := range link.FindAllStringSubmatch(page.body, -1) {
		if address := html.UnescapeString(m[1]); strings.Contains(address, to) {
			a := s.do(jar, "GET", address, nil)
			s.want(a, 200)
			return a
		}
	}
	s.t.Errorf("%s has no link to %s", page.Request.URL, to)
	return page
}

// What an operator asks at three in the morning is answered by the overview, or at most two clicks behind it, whosever the jobs are.
func TestWhatAnOperatorAsksIsTwoClicksAway(t *testing.T) {
	s, waits, runs, failed, endpoint := operated(t)
	const lastHour = "In the last hour 12 of its calls were refused with 429; 2 other calls failed: 2 timeout; 3 jobs failed: 3 upstream_rejected; 4 jobs went to fallbacks: 4 gpt."
	ofPool, waiting := "/pools/claude", "pool=claude&status=queued&tenant=acme"
	for _, token := range []string{"look", "change"} {
		jar := s.signIn(token)
		for _, q := range []struct {
			asks   string
			clicks []string
			sees   []string
		}{
			{"Which jobs wait?", []string{ofPool, waiting}, []string{waits}},
			{"Which jobs run?", []string{ofPool, "pool=claude&status=running&tenant=acme"}, []string{runs}},
			{"Which jobs fail?", []string{ofPool, "/jobs/" + failed}, []string{failed, "upstream_rejected"}},
			{"Whose are they, and who floods?", []string{ofPool}, []string{"acme</a>", "75 %", "globex</a>", "25 %"}},
			{"Why does this job wait, at which place, and until when?", []string{ofPool, waiting}, []string{"waits for the provider&#39;s allowance of input tokens, place 3 of its tenant, expected to start in 1 min 30 s"}},
			{"What did it cost, by tenant, model and day?", []string{"/usage"}, []string{"By tenant", "By model", "By day", "7 " + tasks.Currency}},
			{"How long until the backlog is drained?", nil, []string{"in 1 min 30 s, at 12:01:30 UTC"}},
			{"What was the pace in the last hour?", nil, []string{`class="spark"`, "Last hour: from 0 to 50 %"}},
			{"How many 429s, retries and failures?", nil, []string{lastHour}},
			{"Which webhook failed, to whom, and is an endpoint disabled?", []string{"/webhooks"}, []string{endpoint, "<td>acme</td><td>https://in.acme.example/", "disabled since"}},
			{"With what answer?", []string{"/webhooks", "endpoint=" + endpoint}, []string{"given up after 1 attempt: gone"}},
			{"Which workers live, and which version?", nil, []string{"<dt>Workers</dt><dd>worker-1, version 0.2.0</dd>", "<dt>APIs alone</dt><dd>api-1, version 0.2.1</dd>"}},
			{"Is Redis near its limit?", nil, []string{"870 MiB in use of 1\u202f024 MiB (84 %), 20 MiB expected for results"}},
			{"Which tenant is at its quota?", []string{"/tenants"}, []string{`<td class="full">`, "acme</a>"}},
			{"When was the pool paused last night?", []string{ofPool}, []string{"03:00:00 UTC</time></td><td>Paused</td><td>1 h 0 min"}},
			{"Who paused it?", []string{ofPool}, []string{"<td>ada</td><td>pause</td><td>the invoice</td>"}},
			{"What is the fallback doing?", []string{ofPool}, []string{"<td>job went to a fallback</td><td>gpt</td><td>4</td>"}},
			{"May something have been billed that brought nothing?", []string{"/usage"}, []string{"Perhaps more", "0.000000001"}},
		} {
			if len(q.clicks) > 2 {
				t.Fatalf("%s: %d clicks", q.asks, len(q.clicks))
			}
			page := s.do(jar, "GET", "/", nil)
			for _, to := range q.clicks {
				page = s.click(jar, page, to)
			}
			for _, text := range q.sees {
				if !strings.Contains(page.body, text) {
					t.Errorf("%s, %s: %s does not say %q:\n%s", token, q.asks, fmt.Sprint(append([]string{"/"}, q.clicks...)), text, page.body)
				}
			}
		}
	}
	// What all of it runs on, and how others fare, is no caller's business.
	own := s.do(s.signIn("own"), "GET", "/", nil)
	for _, text := range []string{"worker-1", "Memory of Redis"} {
		if strings.Contains(own.body, text) {
			t.Errorf("a caller is told of %q", text)
		}
	}
	s.want(s.click(s.signIn("own"), own, "pool=claude&status=queued"), 200, waits)
	if a := s.as("own", "GET", "/webhooks"); strings.Contains(a.body, "of every tenant") {
		t.Error("a caller is told of others' endpoints")
	}
}
