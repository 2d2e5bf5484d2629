package worker

import (
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// Requests that a provider may answer in different ways share no answer.
func TestWhatShares(t *testing.T) {
	t.Parallel()
	p := &servedPool{}
	p.Provider = "openai"
	of := func(change func(*tasks.Job)) string {
		j := tasks.Job{Tenant: "acme", Model: "m", Request: tasks.Request{Kind: tasks.Raw, Body: []byte(`{"model":"m"}`)}}
		change(&j)
		return digest(p, &j)
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*tasks.Job){
		"itself":              func(*tasks.Job) {},
		"a tenant":            func(j *tasks.Job) { j.Tenant = "other" },
		"a model":             func(j *tasks.Job) { j.Model = "n" },
		"an endpoint":         func(j *tasks.Job) { j.Request.Endpoint = tasks.Responses },
		"a body":              func(j *tasks.Job) { j.Request.Body = []byte(`{"model": "m"}`) },
		"a version":           func(j *tasks.Job) { j.Request.Version = "x" },
		"a beta":              func(j *tasks.Job) { j.Request.Beta = "x" },
		"OpenAI's beta":       func(j *tasks.Job) { j.Request.OpenAI.Beta = "x" },
		"an organisation":     func(j *tasks.Job) { j.Request.OpenAI.Organization = "x" },
		"another":             func(j *tasks.Job) { j.Request.OpenAI.Organization = "y" },
		"a project":           func(j *tasks.Job) { j.Request.OpenAI.Project = "x" },
		"a project, and more": func(j *tasks.Job) { j.Request.OpenAI.Project, j.Request.OpenAI.Organization = "x", "x" },
	} {
		d := of(change)
		if other, taken := seen[d]; taken {
			t.Errorf("%s shares its answer with %s", name, other)
		}
		seen[d] = name
	}
	if of(func(j *tasks.Job) { j.ID, j.Metadata = "job_1", map[string]string{"a": "b"} }) != of(func(*tasks.Job) {}) {
		t.Error("two jobs that ask the same do not share")
	}
}
