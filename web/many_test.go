package web

import (
	"context"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)">`)

// form is what a page's hidden fields would send.
func form(a answer) url.Values {
	out := url.Values{}
	for _, m := range hiddenField.FindAllStringSubmatch(a.body, -1) {
		out.Add(m[1], html.UnescapeString(m[2]))
	}
	return out
}

// today has a site go by Redis's clock: until is compared with when that accepted a job.
func today(c *Config) {
	c.Now = nil
	known := c.Verifier.(tokens)
	for name, id := range known {
		id.ExpiresAt = time.Now().Add(time.Hour)
		known[name] = id
	}
}

// What a list finds is moved together: after a count, by the same filters, and nothing else.
func TestWhatAListFindsIsMovedTogether(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t, today)
	jar := s.signIn("own")
	a, b, done := s.job("acme", "claude-a", ""), s.job("acme", "claude-b", ""), s.job("acme", "claude-a", "yes")
	theirs := s.job("globex", "claude-a", "")
	s.want(s.do(jar, "GET", "/jobs?model=claude-a", nil), 200, `href="/jobs/retry?model=claude-a&amp;tenant=acme"`, `href="/jobs/cancel?model=claude-a&amp;tenant=acme"`)
	if p := s.do(jar, "GET", "/jobs?status=succeeded", nil); strings.Contains(p.body, "retry-all") || strings.Contains(p.body, "cancel-all") {
		t.Errorf("what succeeded may be moved:\n%s", p.body)
	}
	asked := s.do(jar, "GET", "/jobs/cancel?model=claude-a", nil)
	s.want(asked, 200, "Cancel 1 jobs?", "<dd>claude-a</dd>", `id="sure"`)
	later := s.job("acme", "claude-a", "")
	s.want(s.do(jar, "POST", "/jobs/cancel", form(asked)), 200, "1 jobs canceled", "That was all")
	for id, want := range map[string]string{a: "canceled", b: "queued", done: "succeeded", later: "queued"} {
		s.want(s.do(jar, "GET", "/jobs/"+id, nil), 200, `<span class="badge `+want+`">`)
	}
	s.want(s.do(jar, "POST", "/jobs/cancel", form(asked)), 200, "0 jobs canceled")
	asked = s.do(jar, "GET", "/jobs/retry?status=canceled&metadata="+url.QueryEscape("note="+hostile), nil)
	s.want(asked, 200, "Run again 1 jobs?")
	s.want(s.do(jar, "POST", "/jobs/retry", form(asked)), 200, "1 jobs queued again")
	s.want(s.do(jar, "GET", "/jobs/"+a, nil), 200, `<span class="badge queued">`)
	s.want(s.do(jar, "GET", "/jobs/retry?model=none", nil), 200, "No jobs to be queued again")
	if s.audit() != "" {
		t.Errorf("noted %q of its own jobs", s.audit())
	}
	// An admin's move of another tenant's jobs is noted before it is made.
	ada := s.signIn("change")
	asked = s.do(ada, "GET", "/jobs/cancel?tenant=globex", nil)
	s.want(asked, 200, "Cancel 1 jobs?")
	s.want(s.do(ada, "POST", "/jobs/cancel", form(asked)), 200, "1 jobs canceled")
	s.want(s.do(ada, "GET", "/jobs/"+theirs, nil), 200, `<span class="badge canceled">`)
	if got := s.audit(); !strings.HasPrefix(got, "ada cancel jobs?tenant=globex&until=") || strings.Contains(got, ";") {
		t.Errorf("noted %q", got)
	}
}

// Who may not move many jobs, and what says nothing of which, is told so, and moves nothing.
func TestManyJobsAreNotMovedByEverybody(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t)
	open := s.job("acme", "claude-x", "")
	all := url.Values{"tenant": {"acme"}}
	for _, act := range []string{"cancel", "retry"} {
		for _, token := range []string{"look", "reader", "writer", "reads-all"} {
			s.want(s.as(token, "GET", "/jobs/"+act+"?tenant=acme"), 403)
			s.want(s.do(nil, "POST", "/jobs/"+act, all, "Authorization", "Bearer "+token), 403)
		}
		s.want(s.as("own", "GET", "/jobs/"+act+"?tenant=globex"), 403)
		jar := s.signIn("own")
		s.want(s.do(jar, "POST", "/jobs/"+act, all, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), 403)
		s.want(s.do(jar, "POST", "/jobs/"+act, nil), 400, "does not say")
		s.want(s.do(jar, "POST", "/jobs/"+act+"?tenant=acme", nil), 400, "does not say")
		for query, want := range map[string]string{"status=done": "No job of that status", "status=succeeded": "No job of that status", "metadata=x": "key=value", "since=yesterday": "in UTC", "model=%ff": "no text"} {
			s.want(s.do(jar, "GET", "/jobs/"+act+"?"+query, nil), 400, want)
		}
		s.want(s.as("change", "GET", "/jobs/"+act+"?tenant=acme&metadata=note%3Dx"), 400, "is not searched")
	}
	if p := s.as("reader", "GET", "/jobs"); strings.Contains(p.body, "cancel-all") {
		t.Error("a reader is shown what it may not do")
	}
	s.want(s.as("own", "GET", "/jobs/"+open), 200, `<span class="badge queued">`)
}

// patient is moved by halves.
type patient struct{ shelf }

func (patient) RetryAll(context.Context, Actor, tasks.Selection) (ManyMoved, error) {
	return ManyMoved{Moved: tasks.Moved{Jobs: 10_000, More: true, TooLarge: 2}, Stopped: "The quota is <used> up."}, nil
}

func (patient) Count(context.Context, tasks.Selection) (tasks.Moved, error) {
	return tasks.Moved{Jobs: 10_000, More: true}, nil
}

// What one go has left is told, with a way on by the same filters.
func TestWhatIsLeftOfManyJobsIsTold(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t, func(c *Config) { c.Jobs = patient{c.Jobs.(shelf)} })
	jar := s.signIn("own")
	asked := s.do(jar, "GET", "/jobs/retry?status=failed&pool="+url.QueryEscape(hostile), nil)
	s.want(asked, 200, "Run again "+grouped(10_000)+" of many jobs?", "at most "+grouped(10_000))
	over := s.do(jar, "POST", "/jobs/retry", form(asked))
	s.want(over, 200, grouped(10_000)+" jobs queued again", "There are more", `id="more"`, "2 more are larger", "The quota is &lt;used&gt; up.")
	if got, want := form(over).Encode(), form(asked).Encode(); got != want || !strings.Contains(want, "until=") {
		t.Errorf("goes on by %s, began by %s", got, want)
	}
	if strings.Contains(asked.body+over.body, "<script>alert") {
		t.Error("hostile text reaches the page")
	}
}
