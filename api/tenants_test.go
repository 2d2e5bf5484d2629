package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

var usual = tasks.TenantLimits{Weight: 1, SubmitsPerMinute: 600, QueuedJobs: 100, CostPerDay: 5 * tasks.Unit / 2, HighPriority: true}

// KnownTenants has three tenants.
func (w *world) KnownTenants(_ context.Context, after string, limit int) (tasks.TenantPage, error) {
	return tasks.PageTenants([]tasks.Tenant{{Name: "zoe", Limits: usual}, {Name: "acme", Limits: usual}, {Name: "bee", Limits: usual}}, after, limit), w.fail
}

// SetTenant notes what was set.
func (w *world) SetTenant(ctx context.Context, name string, set tasks.TenantSettings, act tasks.Act) (tasks.Tenant, error) {
	if w.denies != nil {
		return tasks.Tenant{}, w.denies
	}
	act.Reason = set.String()
	err := w.Note(ctx, act)
	return tasks.Tenant{Name: name, Settings: set, Limits: set.Over(usual)}, err
}

// DeleteTenant deletes some, and slow not all of it.
func (w *world) DeleteTenant(ctx context.Context, name string, act tasks.Act) (tasks.Departure, error) {
	if name == "away" {
		return tasks.Departure{}, fmt.Errorf("delete: %w: %w", tasks.ErrUnavailable, context.DeadlineExceeded)
	}
	if w.denies != nil {
		return tasks.Departure{}, w.denies
	}
	if err := w.Note(ctx, act); err != nil {
		return tasks.Departure{}, err
	}
	d := tasks.Departure{Tenant: name, Done: name != "slow", Jobs: 3, Batches: 1, Tokens: 2}
	if !d.Done {
		return d, fmt.Errorf("delete: %w", context.DeadlineExceeded)
	}
	return d, nil
}

func TestATenantIsDeleted(t *testing.T) {
	t.Parallel()
	s := serve(t)
	r := s.call("DELETE", "/v1/tenants/acme?reason=left+us", admin, nil).want(t, 200)
	if want := `{"object":"tenant.deletion","name":"acme","deleted":true,"jobs":3,"batches":1,"files":0,"webhook_endpoints":0,"deliveries":0,"tokens":2}`; strings.TrimSpace(string(r.body)) != want {
		t.Errorf("answered %s", r.body)
	}
	s.call("DELETE", "/v1/tenants/away", admin, nil).want(t, 503)
	if act := s.world.acts[0]; act.Action != "delete_tenant" || act.Target != "acme" || act.Reason != "left us" || act.By != "somebody" {
		t.Errorf("the audit has %+v", act)
	}
	if r := s.call("DELETE", "/v1/tenants/slow", admin, nil).want(t, 202); !strings.Contains(string(r.body), `"deleted":false`) || r.Header.Get("Retry-After") == "" {
		t.Errorf("answered %v %s", r.Header, r.body)
	}
	s.call("DELETE", "/v1/tenants/..%2fx", admin, nil).want(t, 400)
	s.call("DELETE", "/v1/tenants/acme?reason="+strings.Repeat("a", 501), admin, nil).want(t, 400)
	s.world.breakWith(tasks.ErrUnavailable)
	s.call("DELETE", "/v1/tenants/acme", admin, nil).want(t, 503)
	s.world.breakWith(tasks.ErrLeaving)
	s.call("POST", "/v1/jobs", writer, hello).want(t, 403, "tenant_being_deleted")
}

func TestTenants(t *testing.T) {
	t.Parallel()
	s := serve(t)
	first := s.call("GET", "/v1/tenants?limit=2", admin, nil).want(t, 200)
	if strings.Count(string(first.body), `"object":"tenant"`) != 2 || first.str(t, "next") != "bee" {
		t.Errorf("the first page is %s", first.body)
	}
	if rest := s.call("GET", "/v1/tenants?limit=2&after=bee", admin, nil).want(t, 200); !strings.Contains(string(rest.body), `"has_more":false`) || !strings.Contains(string(rest.body), `"name":"zoe"`) {
		t.Errorf("the last page is %s", rest.body)
	}
	const set = `{"weight":3,"queued_jobs":0,"running_jobs":7,"cost_per_day":12.5,"high_priority":false,"tokens_per_day":null,"users":{"queued_jobs":4,"running_jobs":2,"tokens_per_day":null,"cost_per_day":0.5}}`
	r := s.call("PUT", "/v1/tenants/acme", admin, set, "User-Agent", "sluice-cli/1").want(t, 200)
	for _, want := range []string{
		`"weight":3,"submits_per_minute":600,`, `"running_jobs":7,`, `"cost_per_day":12.5,"high_priority":false,"users":{"submits_per_minute":0,"queued_jobs":4,"running_jobs":2,"tokens_per_day":0,"cost_per_day":0.5}`,
		`"set":{"weight":3,"queued_jobs":0,"running_jobs":7,"high_priority":false,"cost_per_day":12.5,"users":{"queued_jobs":4,"running_jobs":2,"cost_per_day":0.5}}`,
	} {
		if !strings.Contains(string(r.body), want) {
			t.Errorf("%s has no %s", r.body, want)
		}
	}
	if act := s.world.acts[0]; act.By != "somebody" || act.Via != "shell" || act.Action != "set_tenant" || act.Target != "acme" || !strings.Contains(act.Reason, `"weight":3`) {
		t.Errorf("the audit has %+v", act)
	}
	s.call("PUT", "/v1/tenants/acme", admin, `{}`).want(t, 200)
	for body, status := range map[string]int{
		`{"weight":0}`: 422, `{"weight":-1}`: 422, `{"queued_jobs":-1}`: 422, `{"tokens_per_day":1000000000000001}`: 422, `{"cost_per_day":-0.5}`: 422, `{"cost_per_day":0.0000000001}`: 422,
		`{"weight":1.5}`: 400, `{"weight":"3"}`: 400, `{"weight":1e3}`: 400, `{"queued_jobs":99999999999999999999}`: 400, `{"high_priority":1}`: 400, `{"cost_per_day":"1"}`: 400,
		`{"users":{"queued_jobs":-1}}`: 422, `{"users":{"cost_per_day":-1}}`: 422, `{"users":1}`: 400, `{"users":[]}`: 400, `{"users":{"weight":1}}`: 400, `{"users":{"queued_jobs":1,"queued_jobs":1}}`: 400, `{"users":null}`: 200, `{"users":{}}`: 200,
		`{"quota":1}`: 400, `{"weight":1,"weight":2}`: 400, `{} {}`: 400, `[]`: 400, ``: 400,
	} {
		if r := s.call("PUT", "/v1/tenants/acme", admin, body); r.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", body, r.StatusCode, r.body, status)
		}
	}
	s.call("PUT", "/v1/tenants/default", admin, `{}`).want(t, 400)
	s.call("PUT", "/v1/tenants/..%2fx", admin, `{}`).want(t, 400)
	s.call("GET", "/v1/tenants?after=..", admin, nil).want(t, 400)
	s.world.breakWith(tasks.ErrUnavailable)
	s.call("PUT", "/v1/tenants/acme", admin, `{}`).want(t, 503)
	s.call("GET", "/v1/tenants", admin, nil).want(t, 503)
}
