package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/tasks"
)

// What a tenant sends that makes jobs is counted by how it was answered; of whoever has no
// valid token no series is made, and of many tenants only a hundred.
func TestSubmitsAreCountedByTenant(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for range 2 {
		s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"hi"}`).want(t, 202)
	}
	s.call("POST", "/v1/jobs", writer, `{"model":"claude-x"}`).want(t, 400, "invalid_request")
	s.call("POST", "/v1/batches", reader, `{"jobs":[]}`).want(t, 403, "forbidden")
	s.call("POST", "/v1/jobs", "", `{}`).want(t, 401, "unauthorized")
	s.call("GET", "/v1/jobs", writer, nil).want(t, 200)
	want := `
# HELP sluice_tenant_submits_total Submits, batches and calls in a provider's form, by tenant (the first 100 of a process, the rest as (others)) and problem code; accepted where there is none.
# TYPE sluice_tenant_submits_total counter
sluice_tenant_submits_total{code="accepted",tenant="acme"} 2
sluice_tenant_submits_total{code="forbidden",tenant="acme"} 1
sluice_tenant_submits_total{code="invalid_request",tenant="acme"} 1
`
	if err := testutil.GatherAndCompare(s.registry, strings.NewReader(want), "sluice_tenant_submits_total"); err != nil {
		t.Error(err)
	}
	for i := range tasks.RosterMost + 20 {
		s.call("POST", "/v1/jobs", fmt.Sprintf("t%d:jobs:write", i), `{}`).want(t, 400, "invalid_request")
	}
	if n, err := testutil.GatherAndCount(s.registry, "sluice_tenant_submits_total"); err != nil || n != tasks.RosterMost+3 {
		t.Errorf("%d series, %v; want %d", n, err, tasks.RosterMost+3)
	}
}
