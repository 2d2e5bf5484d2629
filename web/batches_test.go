package web

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

func (s shelf) CancelBatch(ctx context.Context, tenant, id string) error {
	_, err := s.Store.CancelBatch(ctx, tenant, id)
	return err
}

func (s shelf) BatchLines(ctx context.Context, tenant, id string, from int) (lines []byte, next int, err error) {
	jobs, next, err := s.BatchResults(ctx, tenant, id, from)
	for i := range jobs {
		lines = append(lines, jobs[i].ID+" "+string(jobs[i].Status)+"\n"...)
	}
	return lines, next, err
}

// batch makes a tenant's batch of so many lines, none of which is worked on.
func (s *jobsSite) batch(tenant string, lines int) string {
	s.t.Helper()
	ctx, id := s.t.Context(), store.NewID("batch")
	jobs := make([]tasks.Job, lines)
	for i := range jobs {
		jobs[i] = tasks.Job{
			ID: store.NewID("job"), Tenant: tenant, Pool: "claude", Model: "claude-x", Batch: id, Line: i + 1,
			Request: tasks.Request{Kind: tasks.Text, Body: []byte(`"ask-canary"`), MaxTokens: 16},
		}
	}
	_, _, err := s.store.OpenBatch(ctx, id, tenant, "")
	if err == nil {
		err = s.store.StageBatch(ctx, id, jobs, tasks.Limits{})
	}
	if err == nil {
		_, err = s.store.CommitBatch(ctx, id, tasks.BatchCommit{Lines: int64(lines)})
	}
	for left := int64(1); left > 0 && err == nil; {
		left, _, err = s.store.Unfold(ctx, id)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// Batches are listed with how they stand, for who may see them, and canceled by hand.
func TestBatchesAreShownAndCanceled(t *testing.T) {
	s := newJobsSite(t)
	id := s.batch("acme", 3)
	other := s.batch("globex", 1)
	a := s.as("own", "GET", "/batches")
	if s.want(a, 200, id, "0 of 3 lines have ended", "in_progress"); strings.Contains(a.body, other) {
		t.Errorf("another tenant's batch is listed:\n%s", a.body)
	}
	s.want(s.as("own", "GET", "/batches?status=ended"), 200, "No batches here")
	s.want(s.as("own", "GET", "/batches?status=done"), 400, "no such status")
	s.want(s.as("own", "GET", "/batches?tenant=globex"), 403, "its own tenant")
	s.want(s.as("look", "GET", "/console/batches?tenant=globex"), 200, other)
	s.want(s.as("own", "GET", "/batches/"+id), 200, "0 of 3", `href="/jobs?batch=`+id, "/v1/batches/"+id+"/results", `id="cancel"`)
	s.want(s.as("reader", "GET", "/console/batches/"+id), 200, "0 of 3")
	for _, path := range []string{"/batches/" + other, "/console/batches/" + other, "/batches/" + url.PathEscape(hostile)} {
		s.want(s.as("own", "GET", path), 404)
	}
	s.want(s.as("reader", "POST", "/batches/"+id+"/cancel"), 403)
	s.want(s.as("own", "POST", "/batches/"+other+"/cancel"), 404)
	s.want(s.as("own", "POST", "/batches/"+id+"/cancel"), 303)
	s.want(s.as("own", "GET", "/batches/"+id), 200, "All 3 lines ended", "100 %")
	s.want(s.as("own", "POST", "/batches/"+id+"/cancel"), 409)
	s.want(s.as("change", "POST", "/batches/"+other+"/cancel"), 303)
	if s.audit() != "ada cancel "+other {
		t.Errorf("noted %q", s.audit())
	}
}

// What is written into the page that submits reaches the desk as it was written; what
// that refuses is told beside what was written.
func TestJobsAreSubmittedByHand(t *testing.T) {
	var got NewJob
	var by Actor
	s := &jobsSite{}
	s.site = newSite(t, func(c *Config) {
		c.Jobs = shelf{}
		c.Note = func(ctx context.Context, _ Actor, _, _ string, do func(context.Context) error) error { return do(ctx) }
		c.Submit = func(_ context.Context, who Actor, n NewJob) (string, error) {
			if got, by = n, who; n.Model == "none" {
				return "", &RefusedError{Status: 404, Text: "No pool serves this model."}
			}
			return "job_1", nil
		}
	})
	post := func(token string, form url.Values) answer {
		return s.do(nil, "POST", "/new", form, "Authorization", "Bearer "+token)
	}
	s.want(s.as("caller", "GET", "/new"), 200, `name="prompt"`, "New job")
	form := url.Values{"model": {" claude-x "}, "prompt": {" a\n" + hostile}, "system": {"s"}, "max_tokens": {" 12 "}, "priority": {"low"}}
	if a := post("caller", form); a.StatusCode != 303 || a.Header.Get("Location") != "/jobs/job_1" {
		t.Errorf("%d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	if want := (NewJob{"claude-x", " a\n" + hostile, "s", 12, tasks.Low}); got != want || by.Subject != "carl" || by.Tenant != "acme" || by.Via != "console" {
		t.Errorf("submitted %+v by %+v", got, by)
	}
	form.Set("model", "none")
	a := post("caller", form)
	if s.want(a, 404, "No pool serves this model.", "&lt;script&gt;", "<option selected>low</option>"); strings.Contains(a.body, "<script>alert") {
		t.Error("what was written is markup")
	}
	for tokens, status := range map[string]int{"0": 400, "x": 400, "-1": 400} {
		form.Set("max_tokens", tokens)
		s.want(post("caller", form), status, "whole number")
	}
	s.want(post("look", form), 403, "jobs:write")
	s.want(post("caller", url.Values{"prompt": {strings.Repeat("x", maxNewBytes)}}), 413, "POST /v1/jobs")
}
