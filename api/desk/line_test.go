package desk

import (
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// One user has no place in the line that another of its tenant waits for, whatever they have in common.
func TestUsersStandInTheLineForThemselves(t *testing.T) {
	t.Parallel()
	of := func(user string, s tasks.Submission) string {
		s.Job.Tenant, s.Job.User = "acme", user
		return (&comer{of: &s}).who()
	}
	for name, s := range map[string]tasks.Submission{
		"key":  {Key: "order-1"},
		"id":   {Named: true, Job: tasks.Job{ID: "job_1"}},
		"body": {Job: tasks.Job{Model: "m", Request: tasks.Request{Body: []byte("{}")}}},
	} {
		ada, bob, all := of("ada", s), of("bob", s), of("", s)
		if ada == bob || ada == all || bob == all {
			t.Errorf("by %s ada is %s, bob %s and nobody's job %s", name, ada, bob, all)
		}
		if again := of("ada", s); again != ada {
			t.Errorf("by %s ada is %s, and %s when she comes again", name, ada, again)
		}
	}
}
