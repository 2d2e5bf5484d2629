package api_test

import (
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// What an admin asks for and is refused is in the audit with how it was refused, and what is to be
// noted before it is done, and cannot be, is not done.
func TestWhatIsRefusedIsInTheAudit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method, path, body string
		fail               error
		status             int
		want               tasks.Act
	}{
		"a pause of no pool":      {"POST", "/v1/pools/nowhere/pause", `{"reason":"why"}`, nil, 404, tasks.Act{Action: "pause", Target: "nowhere", Outcome: "not_found"}},
		"a resumption of no pool": {"POST", "/v1/pools/nowhere/resume", "", nil, 404, tasks.Act{Action: "resume", Target: "nowhere", Outcome: "not_found"}},
		"a token in conflict":     {"POST", "/v1/tokens", `{"tenant":"acme","name":"ci","scope":"jobs:read","ttl":"1h"}`, tasks.ErrConflict, 409, tasks.Act{Action: "create_token", Outcome: "conflict"}},
		"a tenant that leaves":    {"PUT", "/v1/tenants/acme", `{"weight":2}`, tasks.ErrLeaving, 403, tasks.Act{Action: "set_tenant", Target: "acme", Outcome: "tenant_being_deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			s.world.denies = c.fail
			s.call(c.method, c.path, admin, c.body).want(t, c.status, c.want.Outcome)
			if len(s.world.acts) != 1 {
				t.Fatalf("%d lines: %+v", len(s.world.acts), s.world.acts)
			}
			got := s.world.acts[0]
			if c.want.Target == "" {
				c.want.Target = got.Target
			}
			if got.Action != c.want.Action || got.Target != c.want.Target || got.Outcome != c.want.Outcome || got.By != "somebody" {
				t.Errorf("the audit has %+v", got)
			}
		})
	}
	s := serve(t)
	s.call("POST", "/v1/pools/nowhere/pause", writer, "").want(t, 403, "forbidden")
	if len(s.world.acts) != 0 {
		t.Errorf("who is no admin writes %+v", s.world.acts)
	}
	s.world.fail = tasks.ErrUnavailable
	s.call("POST", "/v1/pools/claude/pause", admin, `{"reason":"why"}`).want(t, 503, "unavailable")
	if len(s.world.paused) != 0 {
		t.Error("it was paused without a line")
	}
}
