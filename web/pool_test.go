package web

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// desk tells of pools what it is made of.
type desk struct {
	shares tasks.Shares
	past   tasks.Past
	acts   []tasks.PoolAct
	list   []tasks.PoolAccount
	fault  error
}

func (d desk) Shares(context.Context, string) (tasks.Shares, error) { return d.shares, d.fault }
func (d desk) Past(context.Context, string) (tasks.Past, error)     { return d.past, d.fault }
func (d desk) Accounts(context.Context, string) ([]tasks.PoolAccount, error) {
	return d.list, d.fault
}
func (d desk) Audit(context.Context, string, int) ([]tasks.PoolAct, error) { return d.acts, d.fault }

// A pool's page says what waits, for what and until when; to who operates also whose it is,
// what its jobs waited for and who paused it.
func TestAPoolsPage(t *testing.T) {
	d := &desk{
		shares: tasks.Shares{Hour: 0.97, Others: 2, Tenants: []tasks.TenantShare{{Tenant: "acme" + hostile, Weight: 3, Minute: 12, Hour: 300, Share: 0.75, Queued: 4321, Running: 2, Lag: 1.5}}},
		past: tasks.Past{Binds: []tasks.Bind{
			{At: noon.Add(-time.Hour)}, {At: noon.Add(-50 * time.Minute), For: tasks.WaitPaused}, {At: noon.Add(-40 * time.Minute), For: tasks.WaitPaused, Shares: 2}, {At: noon.Add(-30 * time.Minute), For: tasks.WaitInputTokens},
		}},
		acts: []tasks.PoolAct{{At: noon.Add(-time.Hour), Action: "pause", By: "ada", Reason: "the invoice " + hostile}},
	}
	d.list = []tasks.PoolAccount{
		{Name: "eu" + hostile, Provider: "anthropic-eu", State: tasks.PoolPaused, Reason: "unauthorized", Weight: 2, SharedWith: "us", Egress: "http://proxy-1:3128"},
		{Name: "us", Provider: "anthropic", State: tasks.PoolOpen, Weight: 1, Calls: 3, Success: 0.5, Allowance: []tasks.Allowance{{Dimension: tasks.WaitRequests, Used: 0.1}, {Dimension: tasks.WaitInputTokens, Used: 0.25}}},
	}
	s := newJobsSite(t, func(c *Config) {
		c.Pools = d
		known := c.Verifier.(tokens)
		known["own"] = known["caller"]
	})
	pools := somePools()
	pools[0].Mishaps = tasks.Mishaps{
		Calls: []tasks.Mishap{{Cause: "rate_limited", Count: 12, Last: "job_1"}, {Cause: "timeout", Count: 2, Last: "job_2"}},
		Jobs:  []tasks.Mishap{{Cause: "upstream_rejected", Count: 1, Last: "job_3"}}, Diverted: []tasks.Mishap{{Cause: "half", Count: 4, Last: "job_4"}},
	}
	s.set(pools...)
	const lastHour = "In the last hour 12 of its calls were refused with 429; 2 other calls failed: 2 timeout; 1 job failed: upstream_rejected; 4 jobs went to fallbacks: 4 half."
	all := []string{`<a href="/jobs/job_3"><code>job_3`, "eu&lt;script", "paused: unauthorized", "has that of us, of the same organisation", "http://proxy-1:3128", "no calls yet", "<td>50 %</td>", "25 % of ", "acme&lt;script", "75 %", "4\u202f321", "1.50 s behind", "0.970", "2 more had less", "the invoice &lt;script", "ada", "<td>Paused</td><td>20 min 0 s</td>", "<td>Input tokens</td><td>30 min 0 s</td>"}
	for token, sees := range map[string]bool{"look": true, "change": true, "own": false} {
		for _, path := range []string{"/pools/gpt", "/console/pools/gpt"} {
			a := s.do(nil, "GET", path, nil, "Authorization", "Bearer "+token)
			s.want(a, 200, "jobs wait for the provider&#39;s allowance of input tokens.", "3 jobs are for later.", "3, the first 13:00:00 UTC", "in 1 min 30 s, at 12:01:30 UTC", lastHour, "<td>call failed</td><td>timeout</td><td>2</td>")
			for _, text := range all {
				if strings.Contains(a.body, text) != sees {
					t.Errorf("%s, %s: %q is shown: %v, want %v", token, path, text, !sees, sees)
				}
			}
			if strings.Contains(a.body, "<script>alert") {
				t.Errorf("%s, %s: a text is no text", token, path)
			}
		}
	}
	jar := s.signIn("look")
	s.want(s.do(jar, "GET", "/pools/none", nil), 404, "There is no such pool", `href="/"`)
	s.want(s.do(jar, "GET", "/pools/held%2F1", nil), 200, "an operator to resume the pool", "nobody can tell")
	s.want(s.do(jar, "GET", "/", nil), 200, `href="/pools/gpt"`, "in 1 min 30 s, at 12:01:30 UTC", lastHour, "Nothing went wrong in the last hour.")
	d.fault = errors.New("away")
	s.want(s.do(jar, "GET", "/pools/gpt", nil), 503, "cannot be read just now", `href="/"`)
	s.fail(errors.New("away"))
	s.want(s.do(jar, "GET", "/console/pools/gpt", nil), 503, "cannot be read just now", "data-title")
}
