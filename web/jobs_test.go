package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// shelf shows the jobs of a real store, which tells nobody what a job waits for.
type shelf struct{ *store.Store }

func (shelf) Waiting(context.Context, *tasks.Job) *tasks.Waiting {
	return &tasks.Waiting{For: tasks.WaitInputTokens, Position: 3, EstimatedStart: noon.Add(90 * time.Second)}
}

func (s shelf) Timeline(ctx context.Context, tenant, id string) ([]tasks.Span, error) {
	j, err := s.Store.Job(ctx, tenant, id)
	half := j.CreatedAt.Add(1500 * time.Millisecond)
	return []tasks.Span{
		{From: j.CreatedAt, To: half, What: tasks.SpanWaiting, For: tasks.WaitOutputTokens, Detail: "<script>alert(3)</script>"},
		{From: half, To: half.Add(time.Minute), What: tasks.SpanAttempt, Detail: "call 1"},
	}, err
}

func (s shelf) Cancel(ctx context.Context, tenant, id string) error {
	_, err := s.Store.Cancel(ctx, tenant, id)
	return err
}

func (s shelf) Retry(ctx context.Context, who Actor, tenant, id string) error {
	if len(who.Models) > 0 {
		return &RefusedError{Status: 403, Text: "The token is not for this model."}
	}
	_, _, err := s.Requeue(ctx, tenant, id, tasks.Limits{})
	return err
}

func (s shelf) RetryAll(ctx context.Context, who Actor, sel tasks.Selection) (m ManyMoved, err error) {
	sel.May = func(j *tasks.Job) bool { return len(who.Models) == 0 || tasks.MatchModel(who.Models, j.Model) }
	m.Moved, err = s.RequeueAll(ctx, sel, tasks.Limits{}, func([]tasks.Ticket) {})
	return m, err
}

func (s shelf) CancelAll(ctx context.Context, _ Actor, sel tasks.Selection) (m ManyMoved, err error) {
	m.Moved, err = s.Store.CancelAll(ctx, sel)
	return m, err
}

// hostile is text that must reach a page as text.
const hostile = `<script>alert(1)</script>"'&<img src=x onerror=alert(2)>{{.}}`

// jobsSite has jobs of two tenants and notes what is put into the audit.
type jobsSite struct {
	*site
	store *store.Store
	mu    sync.Mutex
	noted []string
	deaf  error // of the audit
}

func newJobsSite(t *testing.T, edits ...func(*Config)) *jobsSite {
	t.Helper()
	s := &jobsSite{}
	s.site = newSite(t, func(c *Config) {
		rdb := c.Redis.(lent).UniversalClient.(*redis.Client)
		s.store = store.New(store.Config{Redis: rdb, Depth: map[string]int{"claude": 8}})
		c.Jobs, c.Batches, c.Webhooks, c.Audit = shelf{s.store}, shelf{s.store}, s.store, s.store.Acts
		c.Tenants = office{s.store}
		c.Note = func(ctx context.Context, who Actor, action, job string, do func(context.Context) error) error {
			s.mu.Lock()
			s.noted = append(s.noted, who.Subject+" "+action+" "+job)
			deaf := s.deaf
			s.mu.Unlock()
			if deaf != nil {
				return deaf
			}
			return do(ctx)
		}
		known := c.Verifier.(tokens)
		known["own"] = known["caller"]
		known["reader"] = Identity{Subject: "rita", Tenant: "acme", Scopes: []string{"jobs:read"}, ExpiresAt: known["caller"].ExpiresAt}
		known["hooks"] = Identity{Subject: "hugo", Tenant: "acme", Scopes: []string{"jobs:read", "webhooks:write"}, ExpiresAt: known["caller"].ExpiresAt}
		known["writer"] = Identity{Subject: "will", Tenant: "acme", Scopes: []string{"jobs:write"}, ExpiresAt: known["caller"].ExpiresAt}
		known["narrow"] = Identity{Subject: "nell", Tenant: "acme", Scopes: []string{"jobs:read", "jobs:write"}, Models: []string{"gpt-*"}, ExpiresAt: known["caller"].ExpiresAt}
		known["reads-all"] = Identity{Subject: "olga", Tenant: "ops", Scopes: []string{"monitor", "content"}, ExpiresAt: known["caller"].ExpiresAt}
		for _, edit := range edits {
			edit(c)
		}
	})
	return s
}

func userOf(owner string) string {
	_, user := tasks.SplitOwner(owner)
	return user
}

// job makes an owner's job, which has ended with that text unless it is "", or "run": then it runs.
func (s *jobsSite) job(tenant, model, text string) string {
	s.t.Helper()
	ctx := s.t.Context()
	id := store.NewID("job")
	_, tickets, err := s.store.Create(ctx, tasks.Submission{Job: tasks.Job{
		ID: id, Tenant: tasks.TenantOf(tenant), User: userOf(tenant), Pool: "claude", Model: model, Metadata: map[string]string{"note": hostile},
		Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"ask-canary"`), MaxTokens: 16},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	if text == "" {
		return id
	}
	if _, err = s.store.Take(ctx, tickets[0]); err == nil {
		_, _, err = s.store.Start(ctx, tickets[0])
	}
	if text == "run" && err == nil {
		return id
	}
	e := tasks.Ending{Status: tasks.StatusFailed, Error: &tasks.JobError{Code: "upstream_rejected", Message: text}, Attempt: tasks.Attempt{Outcome: tasks.Rejected, Status: 400}}
	if text != "fail" {
		e = tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{"type":"message","content":[{"type":"text","text":` + quoted(text) + `}]}`), Attempt: tasks.Attempt{Outcome: tasks.Succeeded, Status: 200}}
	}
	if err == nil {
		_, err = s.store.End(ctx, tickets[0], e)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func quoted(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

// as sends a request as somebody.
func (s *jobsSite) as(token, method, path string) answer {
	s.t.Helper()
	return s.do(nil, method, path, nil, "Authorization", "Bearer "+token)
}

func (s *jobsSite) audit() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.noted, "; ")
}

// Who may see, read and move whose jobs, on every page of jobs.
func TestRolesOfJobs(t *testing.T) {
	s := newJobsSite(t)
	done := s.job("acme", "claude-x", "answer-canary")
	open := s.job("acme", "claude-x", "")
	for _, row := range []struct {
		token                   string
		list, see, result, move int
	}{
		{"own", 200, 200, 200, 303},
		{"reader", 200, 200, 200, 403},
		{"writer", 403, 403, 403, 403},
		{"look", 200, 200, 403, 403},
		{"change", 200, 200, 403, 303},
		{"reads-all", 200, 200, 200, 403},
	} {
		got := []int{
			s.as(row.token, "GET", "/jobs?tenant=acme").StatusCode, s.as(row.token, "GET", "/jobs/"+done).StatusCode,
			s.as(row.token, "GET", "/jobs/"+done+"/result").StatusCode,
		}
		if got[0] != row.list || got[1] != row.see || got[2] != row.result {
			t.Errorf("%s: list, job, result are %v, want %d, %d, %d", row.token, got, row.list, row.see, row.result)
		}
		if part := s.as(row.token, "GET", "/console/jobs/"+done).StatusCode; part != row.see {
			t.Errorf("%s: the part of the job's page is %d, want %d", row.token, part, row.see)
		}
		if row.move == 403 {
			for _, act := range []string{"cancel", "delete", "retry"} {
				s.want(s.as(row.token, "POST", "/jobs/"+open+"/"+act), 403)
			}
		}
	}
	// Another tenant's job is not there for a caller, whatever the page.
	other := s.job("globex", "claude-x", "secret")
	for _, path := range []string{"/jobs/" + other, "/console/jobs/" + other, "/jobs/" + other + "/result", "/jobs/" + other + "/delete"} {
		s.want(s.as("own", "GET", path), 404)
	}
	s.want(s.as("own", "POST", "/jobs/"+other+"/cancel"), 404)
	s.want(s.as("own", "GET", "/jobs?tenant=globex"), 403, "its own tenant")
	if a := s.as("own", "GET", "/jobs"); strings.Contains(a.body, other) || !strings.Contains(a.body, done) {
		t.Errorf("the caller's list holds another's job, or not its own:\n%s", a.body)
	}
	s.want(s.as("own", "GET", "/monitoring"), 403)
	s.want(s.as("own", "GET", "/"), 200, "carl", "Jobs")
	s.want(s.as("own", "POST", "/console/pools/claude/pause"), 403)
}

// Where users are kept apart a caller has the pages of its own jobs alone; an operator sees states, and what
// another user's job holds is as another tenant's.
func TestAUserHasThePagesOfItsOwnJobs(t *testing.T) {
	s := newJobsSite(t, func(c *Config) { c.SeparateUsers = true })
	own, others, shared := s.job("acme/carl", "claude-x", "answer-of-carl"), s.job("acme/rita", "claude-x", "answer-of-rita"), s.job("acme", "claude-x", "answer-of-all")
	s.want(s.as("own", "GET", "/jobs/"+own), 200, "?tenant=acme%2fcarl")
	s.want(s.as("own", "GET", "/jobs/"+own+"/result"), 200, "answer-of-carl")
	for _, id := range []string{others, shared} {
		for _, path := range []string{"/jobs/" + id, "/console/jobs/" + id, "/jobs/" + id + "/result", "/jobs/" + id + "/delete"} {
			s.want(s.as("own", "GET", path), 404)
		}
		for _, act := range []string{"cancel", "retry", "delete"} {
			s.want(s.as("own", "POST", "/jobs/"+id+"/"+act), 404)
		}
	}
	if a := s.as("own", "GET", "/jobs"); strings.Contains(a.body, others) || strings.Contains(a.body, shared) || !strings.Contains(a.body, own) {
		t.Errorf("carl's list holds another's job, or not its own:\n%s", a.body)
	}
	for _, path := range []string{"/jobs?tenant=acme", "/jobs?tenant=acme/rita", "/batches?tenant=acme", "/webhooks?tenant=acme", "/webhooks?tenant=acme%2Frita"} {
		s.want(s.as("own", "GET", path), 403)
	}
	s.want(s.as("reads-all", "GET", "/jobs?tenant=acme"), 200, own, others, shared)
	s.want(s.as("look", "GET", "/jobs/"+others+"/result"), 403)
	s.want(s.as("reads-all", "GET", "/jobs/"+others+"/result"), 200, "answer-of-rita")
	if s.audit() != "olga look "+others {
		t.Errorf("noted %q", s.audit())
	}
}

// What a job holds is on no page but its answer's, and another tenant's only after the look
// was noted.
func TestWhatAJobHoldsIsNotedBeforeItIsShown(t *testing.T) {
	s := newJobsSite(t)
	id := s.job("acme", "claude-x", "answer-canary")
	for _, token := range []string{"look", "change", "reads-all", "own"} {
		for _, path := range []string{"/jobs?tenant=acme", "/console/jobs?tenant=acme", "/jobs/" + id, "/console/jobs/" + id, "/jobs/" + id + "/delete"} {
			a := s.as(token, "GET", path)
			if strings.Contains(a.body, "answer-canary") || strings.Contains(a.body, "ask-canary") || token != "own" && strings.Contains(a.body, "onerror") {
				t.Errorf("%s reads what the job holds at %s", token, path)
			}
		}
	}
	failed := s.job("acme", "claude-x", "fail")
	for _, token := range []string{"look", "change", "reads-all"} {
		if a := s.as(token, "GET", "/jobs/"+failed); !strings.Contains(a.body, "upstream_rejected") || strings.Contains(a.body, "upstream_rejected: fail") {
			t.Errorf("%s reads the provider's words without a note:\n%s", token, a.body)
		}
	}
	s.want(s.as("own", "GET", "/jobs/"+id+"/result"), 200, "answer-canary")
	if s.audit() != "" {
		t.Errorf("noted %q", s.audit())
	}
	s.want(s.as("reads-all", "GET", "/jobs/"+id+"/result"), 200, "answer-canary", "in the audit")
	if s.audit() != "olga look "+id {
		t.Errorf("noted %q", s.audit())
	}
	s.mu.Lock()
	s.deaf = errors.New("Redis is away")
	s.mu.Unlock()
	if a := s.as("reads-all", "GET", "/jobs/"+id+"/result"); a.StatusCode != 503 || strings.Contains(a.body, "canary") {
		t.Errorf("a look that could not be noted: %d\n%s", a.StatusCode, a.body)
	}
	s.want(s.as("change", "POST", "/jobs/"+id+"/delete"), 503) // nor is anything done
	s.want(s.as("own", "GET", "/jobs/"+id), 200)
}

// Texts of callers and providers reach pages as texts.
func TestJobsOfHostileTexts(t *testing.T) {
	s := newJobsSite(t)
	failed := s.job("acme", hostile, "fail")
	done := s.job("acme", hostile, hostile)
	for _, path := range []string{
		"/jobs", "/console/jobs", "/jobs/" + failed, "/jobs/" + done, "/jobs/" + done + "/result", "/jobs/" + done + "/delete",
		"/jobs?model=" + url.QueryEscape(hostile) + "&metadata=" + url.QueryEscape("note="+hostile), "/jobs?pool=" + url.QueryEscape(hostile) + "&since=" + url.QueryEscape(hostile),
		"/jobs/" + url.PathEscape(hostile), "/jobs?id=" + url.QueryEscape(hostile),
	} {
		a := s.as("own", "GET", path)
		for _, bad := range []string{"<script>alert", "<img src=x", `="x"'`} {
			if strings.Contains(a.body, bad) || strings.Contains(a.Header.Get("Location"), bad) {
				t.Errorf("%s: %q in\n%s", path, bad, a.body)
			}
		}
	}
	s.want(s.as("own", "GET", "/jobs?metadata="+url.QueryEscape("note="+hostile)), 200, done, failed)
}

// The list finds by everything that its form offers, tells what cannot be read, and goes on page by page.
func TestJobsAreFound(t *testing.T) {
	s := newJobsSite(t)
	done, failed, open := s.job("acme", "claude-a", "yes"), s.job("acme", "claude-b", "fail"), s.job("acme", "claude-b", "")
	for query, want := range map[string][]string{
		"":                    {done, failed, open},
		"status=failed":       {failed},
		"status=queued":       {open, "waits for the provider&#39;s allowance of input tokens, place 3"},
		"model=claude-a":      {done},
		"pool=claude&status=": {done, failed, open},
		"pool=none":           {"No jobs here"},
		"since=2001-01-01T00:00&until=2099-01-01": {done},
		"since=2099-01-01":                        {"No jobs here"},
	} {
		s.want(s.as("own", "GET", "/jobs?"+query), 200, want...)
	}
	for query, want := range map[string]string{
		"status=done": "no such status", "metadata=note": "key=value", "since=yesterday": "2026-11-20T15:04", "model=" + strings.Repeat("x", 600): "too long", "pool=%ff": "no text",
	} {
		s.want(s.as("own", "GET", "/jobs?"+query), 400, want, `role="alert"`)
	}
	if a := s.as("own", "GET", "/jobs?id=+"+done+"+"); a.StatusCode != 303 || a.Header.Get("Location") != "/jobs/"+done {
		t.Errorf("looked for by id: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	s.want(s.as("look", "GET", "/jobs?tenant=acme"), 200, `<option selected>acme</option>`)
	s.want(s.as("look", "GET", "/jobs?tenant=acme&metadata=note%3Dx"), 403, "is not searched")

	for range jobsOnAPage {
		s.job("globex", "claude-a", "")
	}
	last := s.job("globex", "claude-a", "")
	a := s.as("look", "GET", "/jobs?tenant=globex&status=queued")
	s.want(a, 200, last, `id="next"`)
	_, next, _ := strings.Cut(a.body, `href="/jobs?after=`)
	next, _, _ = strings.Cut(next, `"`)
	second := s.as("look", "GET", "/jobs?after="+strings.ReplaceAll(next, "&amp;", "&"))
	s.want(second, 200)
	if n := strings.Count(second.body, `scope="row"`); n != 1 || strings.Contains(second.body, `id="next"`) {
		t.Errorf("the second page has %d jobs", n)
	}
}

// The buttons do what they say once; of another tenant's job it is noted.
func TestJobsAreMovedByHand(t *testing.T) {
	s := newJobsSite(t)
	open := s.job("acme", "claude-x", "")
	s.want(s.as("own", "GET", "/jobs/"+open), 200, `id="cancel"`)
	s.want(s.as("own", "POST", "/jobs/"+open+"/delete"), 409, "does not allow")
	s.want(s.as("own", "POST", "/jobs/"+open+"/cancel"), 303)
	s.want(s.as("own", "POST", "/jobs/"+open+"/cancel"), 409)
	s.want(s.as("own", "GET", "/jobs/"+open), 200, "canceled", `id="retry"`, `id="delete"`)
	s.want(s.as("narrow", "POST", "/jobs/"+open+"/retry"), 403, "not for this model")
	s.want(s.do(s.signIn("narrow"), "POST", "/jobs/"+open+"/retry", nil), 403, "not for this model")
	s.want(s.as("own", "POST", "/jobs/"+open+"/retry"), 303)
	s.want(s.as("change", "POST", "/jobs/"+open+"/cancel"), 303)
	s.want(s.as("change", "GET", "/jobs/"+open+"/delete"), 200, "gone for good")
	if a := s.as("change", "POST", "/jobs/"+open+"/delete"); a.StatusCode != 303 || a.Header.Get("Location") != "/jobs?tenant=acme" {
		t.Errorf("deleted: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	s.want(s.as("change", "GET", "/jobs/"+open), 404, "no such job", `href="/jobs"`)
	if s.audit() != "ada cancel "+open+"; ada delete "+open {
		t.Errorf("noted %q", s.audit())
	}
	s.redis.Close()
	s.want(s.as("own", "GET", "/jobs"), 503, "cannot be read")
	s.want(s.as("own", "GET", "/jobs/"+open), 503, "Nothing is lost")
}

// A job's page tells what each moment was for, and its calls.
func TestAJobsLifeIsTold(t *testing.T) {
	s := newJobsSite(t)
	id := s.job("acme", "claude-x", "fail")
	a := s.as("own", "GET", "/jobs/"+id)
	s.want(a, 200, "What each moment was for", "waiting for the provider&#39;s allowance of output tokens", "<td>1.50 s</td>", "<td>attempt</td><td>1 min 0 s</td>",
		"rejected 400", "upstream_rejected: fail", "claude", "curl -H")
	for _, jar := range []http.CookieJar{s.signIn("own"), s.signIn("reader")} {
		s.want(s.do(jar, "GET", "/jobs/"+id, nil), 200, id)
	}
	s.want(s.do(nil, "GET", "/jobs/"+id, nil), 303)
	for next, want := range map[string]string{"/jobs/" + id: "/jobs/" + id, "/jobs?status=failed": "/jobs?status=failed", "/jobsX": "/"} {
		if a := s.do(nil, "POST", "/login", url.Values{"token": {"own"}, "next": {next}}); a.Header.Get("Location") != want {
			t.Errorf("next %q: %q", next, a.Header.Get("Location"))
		}
	}
}

// distant is a shelf on which nothing is found in time.
type distant struct{ shelf }

func (distant) Jobs(_ context.Context, f tasks.Filter) (tasks.Page, error) {
	return tasks.Page{HasMore: f.Patience > 0, Next: "job_0"}, nil
}

// A filter that few of very many jobs pass has the list say how it goes on, and not that there are none.
func TestAListThatIsNotAtItsEndLeadsOn(t *testing.T) {
	s := newJobsSite(t, func(c *Config) { c.Jobs = distant{c.Jobs.(shelf)} })
	a := s.as("own", "GET", "/jobs?status=failed")
	s.want(a, 200, "None of the newest is like that", `href="/jobs?after=job_0&amp;status=failed&amp;tenant=acme" id="next">Older`)
	if strings.Contains(a.body, "No jobs here") {
		t.Error("it says that there are none")
	}
}
