package web

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// office has the tenants of a store, each with limits that its job reaches.
type office struct{ *store.Store }

func (o office) KnownTenants(ctx context.Context, after string, limit int) (tasks.TenantPage, error) {
	page, err := o.Store.KnownTenants(ctx, nil, after, limit)
	for i := range page.Tenants {
		t := &page.Tenants[i]
		t.Limits = tasks.TenantLimits{Weight: 3, QueuedJobs: 1, TokensPerDay: 5000}
		if err == nil {
			t.Standing, err = o.Standing(ctx, t.Name)
		}
	}
	return page, err
}

func (o office) RevokeToken(ctx context.Context, id string, act tasks.Act) error {
	return o.Store.RevokeToken(ctx, id, time.Hour, act)
}

// Tenants are shown with what they use of their limits to who operates, and their tokens
// to admins, who can take them back.
func TestTenantsAreShown(t *testing.T) {
	s := newJobsSite(t)
	s.want(s.as("look", "GET", "/tenants"), 200, "No tenant is known yet")
	ctx, now := t.Context(), noon
	for i, tenant := range []string{"acme", "globex"} {
		s.job(tenant, "claude-x", "")
		err := s.store.SaveToken(ctx, tasks.Token{
			ID: store.NewID("tok"), Tenant: tenant, Name: "ci of " + tenant + hostile, Subject: "bot", Scopes: []string{"jobs:read", "jobs:write"},
			Created: now, Expires: now.Add(time.Duration(1-2*i) * time.Hour), By: "ada",
		}, tasks.Act{At: now, By: "ada", Action: "create_token"})
		if err != nil {
			t.Fatal(err)
		}
	}
	const row = `<td class="full">1 <small>of 1</small></td>`
	for token, sees := range map[string]struct {
		status int
		tokens bool
	}{"own": {403, false}, "reader": {403, false}, "writer": {403, false}, "look": {200, false}, "reads-all": {200, false}, "change": {200, true}} {
		for _, path := range []string{"/tenants", "/console/tenants"} {
			a := s.as(token, "GET", path)
			if a.StatusCode != sees.status || strings.Contains(a.body, row) != (sees.status == 200) || strings.Contains(a.body, "ci of acme") != sees.tokens || strings.Contains(a.body, "<script>alert") {
				t.Errorf("%s, %s: %d\n%s", token, path, a.StatusCode, a.body)
			}
		}
		if token != "writer" && strings.Contains(s.as(token, "GET", "/").body, `href="/tenants"`) != (sees.status == 200) {
			t.Errorf("%s: whether the page is offered", token)
		}
	}
	a := s.as("change", "GET", "/tenants")
	s.want(a, 200, `href="/jobs?tenant=acme"`, "of 5", "good until", "ended ", "jobs:read jobs:write")
	_, revoke, _ := strings.Cut(a.body, `action="/tenants/tokens/`)
	id, _, _ := strings.Cut(revoke, "/")
	if n := strings.Count(a.body, "/revoke\""); n != 1 {
		t.Errorf("%d tokens can be revoked; one has ended", n)
	}
	s.want(s.as("look", "POST", "/tenants/tokens/"+id+"/revoke"), 403, "scope admin")
	s.want(s.as("change", "POST", "/tenants/tokens/"+strings.Repeat("x", 100)+"/revoke"), 404)
	for range 2 {
		s.want(s.as("change", "POST", "/tenants/tokens/"+id+"/revoke"), 303)
	}
	s.want(s.as("change", "GET", "/tenants"), 200, "revoked ")
	s.want(s.as("change", "GET", "/audit"), 200, "revoke_token", "console")
	if kept, err := s.store.Token(ctx, id); err != nil || kept.Revoked.IsZero() {
		t.Errorf("%+v, %v", kept, err)
	}
	s.want(s.as("look", "GET", "/tenants?after="+strings.Repeat("x", 100)), 400)
	s.want(s.as("look", "GET", "/tenants?after=acme"), 200, "globex")
	s.redis.Close()
	s.want(s.as("change", "GET", "/tenants"), 503, "cannot be read")
	s.want(s.as("change", "POST", "/tenants/tokens/"+id+"/revoke"), 503)
}

// Each of the page's two lists goes on where it ended, with the other as it is.
func TestBothListsOfThePageGoOn(t *testing.T) {
	t.Parallel()
	w := &Web{base: "/x"}
	for _, row := range []struct{ query, list, next, want string }{
		{"", "after", "", ""},
		{"", "after", "acme", "/x/tenants?after=acme"},
		{"after=acme", "after", "globex", "/x/tenants?after=globex"},
		{"after=acme", "tokens", "tok_1", "/x/tenants?after=acme&tokens=tok_1"},
		{"after=acme&tokens=tok_1", "after", "globex", "/x/tenants?after=globex&tokens=tok_1"},
	} {
		q, err := url.ParseQuery(row.query)
		if got := w.further(q, row.list, row.next); err != nil || got != row.want {
			t.Errorf("%q, %s behind %s: %q; want %q", row.query, row.list, row.next, got, row.want)
		}
	}
}

// A tenant of which something was found is marked for who operates; an admin releases it, and the audit has why.
func TestAFlaggedTenantIsMarkedAndReleased(t *testing.T) {
	var released []tasks.Act
	away := false
	s := newJobsSite(t, func(c *Config) {
		c.SeparateUsers = true
		c.Flagged = func(context.Context) ([]Flagged, error) {
			if away {
				return nil, tasks.ErrUnavailable
			}
			return []Flagged{{Tenant: "acme", Action: "review", Found: []string{"sweep 20 in 30m0s", "rate 1.2 in 1m0s"}}}, nil
		}
		c.Release = func(_ context.Context, tenant string, act tasks.Act) error {
			if tenant != "acme" {
				return tasks.ErrNotFound
			}
			released = append(released, act)
			return nil
		}
	})
	for _, tenant := range []string{"acme", "globex"} {
		s.job(tenant, "claude-x", "")
	}
	const mark, button = "review <small>for sweep 20 in 30m0s, rate 1.2 in 1m0s</small>", `href="/tenants/acme/release"`
	for token, may := range map[string]bool{"look": false, "change": true} {
		if a := s.as(token, "GET", "/tenants"); strings.Count(a.body, mark) != 1 || strings.Contains(a.body, button) != may {
			t.Errorf("%s sees %s", token, a.body)
		}
	}
	s.want(s.as("look", "GET", "/tenants/acme/release"), 403, "scope admin")
	s.want(s.as("look", "POST", "/tenants/acme/release"), 403, "scope admin")
	s.want(s.as("change", "GET", "/tenants/acme/release"), 200, "Release tenant acme", `name="reason"`)
	s.want(s.as("change", "POST", "/tenants/acme/release"), 422, "Say why")
	s.want(s.do(nil, "POST", "/tenants/other/release", url.Values{"reason": {"x"}}, "Authorization", "Bearer change"), 404)
	s.want(s.do(nil, "POST", "/tenants/acme/release", url.Values{"reason": {"a nightly run"}}, "Authorization", "Bearer change"), 303)
	if len(released) != 1 || released[0].Reason != "a nightly run" || released[0].Action != "release_tenant" || released[0].Target != "acme" || released[0].Via != "console" || strings.Contains(released[0].Tenant, "/") {
		t.Errorf("released with %+v", released)
	}
	away = true
	s.want(s.as("change", "GET", "/tenants"), 200, "globex")
}
