package api_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/anthropic"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks"
)

// provider is asked for what is no job.
type provider struct{}

func (provider) Models(context.Context) []anthropic.Model {
	return []anthropic.Model{{ID: "claude-1", Body: json.RawMessage(`{"id":"claude-1"}`)}}
}

func (provider) Model(_ context.Context, _, id string) (anthropic.Model, error) {
	return anthropic.Model{ID: id, Body: json.RawMessage(`{"id":"` + id + `"}`)}, nil
}

func (provider) CountTokens(context.Context, string, tasks.Request) (int, []byte, error) {
	return 200, []byte(`{"input_tokens":1}`), nil
}

// narrowed serves to a token that is for some models or pools alone.
func narrowed(t *testing.T, models, pools []string) *site {
	claims := auth.Claims{Tenant: "acme", Subject: "ci", ID: "1", Scopes: auth.Scopes(), Models: models, Pools: pools}
	return serve(t, func(c *api.Config) {
		c.Verifier, c.Calls, c.Anthropic = asIs{claims}, callers{c.Jobs.(*world)}, provider{}
	})
}

// A token that is narrowed to pools uses no other, by no door, and makes no token that may. What is
// refused makes nothing, and is told which pools there are.
func TestATokenForSomePools(t *testing.T) {
	t.Parallel()
	const message, chat = `{"model":"claude-x","max_tokens":5,"messages":[{"role":"user","content":"x"}]}`, `{"model":"gpt-x","messages":[{"role":"user","content":"x"}]}`
	for _, door := range []struct{ name, method, path, claude, gpt string }{
		{"a submit", "POST", "/v1/jobs", `{"model":"claude-x","prompt":"p"}`, `{"model":"gpt-x","prompt":"p"}`},
		{"a submit with fallback models", "POST", "/v1/jobs", `{"model":"claude-x","prompt":"p","fallback_models":["claude-y"]}`, `{"model":"claude-x","prompt":"p","fallback_models":["claude-y","gpt-x"]}`},
		{"a raw submit", "POST", "/v1/jobs", `{"request":` + message + `}`, `{"request":` + chat + `}`},
		{"a batch", "POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"p"}]}`, `{"jobs":[{"model":"claude-x","prompt":"p"},{"model":"gpt-x","prompt":"p"}]}`},
		{"a batch with fallback models", "POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"p","fallback_models":["claude-y"]}]}`, `{"jobs":[{"model":"claude-x","prompt":"p","fallback_models":["gpt-x"]}]}`},
		{"a token", "POST", "/v1/tokens", `{"tenant":"acme","scope":"admin","ttl":"1h","name":"x","pools":["claude"]}`, `{"tenant":"acme","scope":"admin","ttl":"1h","name":"x","pools":["claude","*"]}`},
		{"messages", "POST", "/anthropic/v1/messages", "", message},
		{"message batches", "POST", "/anthropic/v1/messages/batches", `{"requests":[{"custom_id":"a","params":` + message + `}]}`, ""},
		{"message batches of another pool", "POST", "/anthropic/v1/messages/batches", "", `{"requests":[{"custom_id":"a","params":` + message + `}]}`},
		{"message batches that are at fault", "POST", "/anthropic/v1/messages/batches", `{"requests":[{"custom_id":"a","params":{"model":5}}]}`, ""},
		{"faulty message batches of no pool", "POST", "/anthropic/v1/messages/batches", "", `{"requests":[{"custom_id":"a","params":{"model":5}}]}`},
		{"tokens are counted", "POST", "/anthropic/v1/messages/count_tokens", message, ""},
		{"tokens are counted in another pool", "POST", "/anthropic/v1/messages/count_tokens", "", message},
		{"an Anthropic model", "GET", "/anthropic/v1/models/claude-1", "-", ""},
		{"an Anthropic model of another pool", "GET", "/anthropic/v1/models/claude-1", "", "-"},
		{"chat completions", "POST", "/openai/v1/chat/completions", "", chat},
		{"responses", "POST", "/openai/v1/responses", "", `{"model":"gpt-x","input":"x","background":true}`},
		{"embeddings", "POST", "/openai/v1/embeddings", "", `{"model":"gpt-x","input":"x"}`},
		{"an OpenAI model", "GET", "/openai/v1/models/gpt-1", "", "-"},
		{"an OpenAI model that is not listed", "GET", "/openai/v1/models/gpt-9", "", "-"},
	} {
		t.Run(door.name, func(t *testing.T) {
			t.Parallel()
			pools, names := []string{"cl*", "none"}, "cl*, none"
			if strings.HasPrefix(door.path, "/anthropic") && door.gpt != "" {
				pools, names = []string{"gpt"}, "gpt" // no mount has both pools
			}
			s := narrowed(t, nil, pools)
			if door.claude != "" {
				if r := s.call(door.method, door.path, "t", sent(door.claude)); r.StatusCode >= 300 {
					t.Errorf("its own pool: %d %s", r.StatusCode, r.body)
				}
			}
			if door.gpt == "" {
				return
			}
			made := s.world.made()
			r := s.call(door.method, door.path, "t", sent(door.gpt))
			if r.StatusCode != 403 || !strings.Contains(string(r.body), "only these pools") || !strings.Contains(string(r.body), ": "+names+".") {
				t.Errorf("another pool: %d %s", r.StatusCode, r.body)
			}
			var said struct {
				Type, Code string
				Error      struct{ Type, Message string }
			}
			if err := json.Unmarshal(r.body, &said); err != nil || (said.Error.Message == "") == strings.Contains(door.path[1:], "/v1/") {
				t.Errorf("not in this door's form: %s, %v", r.body, err)
			}
			if got := s.world.made() - made; got > 0 {
				t.Errorf("%d were made", got)
			}
		})
	}
}

// sent is nothing for "-".
func sent(text string) any {
	if text == "-" {
		return nil
	}
	return text
}

// A list of models has those that the token is for; what tells of pools tells of all.
func TestListsOfANarrowedToken(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		models, pools  []string
		claudes, gpts1 int
	}{
		{nil, nil, 1, 1}, {nil, []string{"claude"}, 1, 0}, {nil, []string{"g*"}, 0, 1},
		{[]string{"claude-1"}, nil, 1, 0}, {[]string{"gpt-*"}, []string{"gpt"}, 0, 1}, {[]string{"gpt-*"}, []string{"claude"}, 0, 0},
	} {
		s := narrowed(t, row.models, row.pools)
		for path, want := range map[string]int{"/anthropic/v1/models": row.claudes, "/openai/v1/models": row.gpts1} {
			r := s.call("GET", path, "t", nil).want(t, 200)
			if got, _ := r.json(t)["data"].([]any); len(got) != want {
				t.Errorf("models %q, pools %q, %s: %s, want %d", row.models, row.pools, path, r.body, want)
			}
		}
		for _, path := range []string{"/v1/status", "/v1/pools"} {
			if r := s.call("GET", path, "t", nil).want(t, 200); !strings.Contains(string(r.body), `"claude"`) || !strings.Contains(string(r.body), `"gpt"`) {
				t.Errorf("models %q, pools %q, %s: %s", row.models, row.pools, path, r.body)
			}
		}
	}
}

// What a token may not ask for it does not have run again either, one job or many.
func TestANarrowedTokenRunsAgain(t *testing.T) {
	t.Parallel()
	jobs := []tasks.Job{
		{ID: "own", Model: "claude-x", Pool: "claude"},
		{ID: "own-fallback", Model: "claude-x", Pool: "claude", Fallback: []string{"claude-y"}},
		{ID: "other", Model: "gpt-x", Pool: "gpt"},
		{ID: "may-go", Model: "claude-x", Pool: "claude", Fallback: []string{"gpt-x"}},
		{ID: "went", Model: "claude-x", Pool: "gpt", Fallback: []string{"gpt-x"}, Passed: 1},
		{ID: "came", Model: "gpt-x", Pool: "claude", Fallback: []string{"claude-x"}, Passed: 1},
	}
	for _, many := range []bool{false, true} {
		s := narrowed(t, nil, []string{"claude"})
		for _, j := range jobs {
			j.ID, j.Tenant, j.Priority = "job_0000000000000000"+j.ID, "acme", tasks.Normal
			s.world.failed(j)
		}
		var again []string
		if many {
			s.call("POST", "/v1/jobs/retry", "t", `{"status":"failed"}`).want(t, 200)
		} else {
			for _, j := range jobs {
				if r := s.call("POST", "/v1/jobs/job_0000000000000000"+j.ID+"/retry", "t", nil); r.StatusCode == 403 && strings.Contains(string(r.body), "only these pools: claude.") {
					continue
				} else if r.StatusCode >= 300 {
					t.Errorf("%s: %d %s", j.ID, r.StatusCode, r.body)
				}
			}
		}
		for _, j := range jobs {
			if job, err := s.world.Job(t.Context(), "acme", "job_0000000000000000"+j.ID); err != nil {
				t.Error(err)
			} else if !job.Status.Final() {
				again = append(again, j.ID)
			}
		}
		if !slices.Equal(again, []string{"own", "own-fallback"}) {
			t.Errorf("many: %v: %q run again", many, again)
		}
	}
}

// failed keeps a job that failed.
func (w *world) failed(j tasks.Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put(j)
	w.jobs[j.ID].Status = tasks.StatusFailed
}

// The fallback models that a pool lends lead a narrowed token's job nowhere else.
func TestWhatAPoolLendsToANarrowedToken(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ models, pools, want []string }{
		{nil, nil, nil}, {nil, []string{"*"}, nil}, {[]string{"claude-*", "gpt-*"}, nil, nil}, // all of it is lent later
		{nil, []string{"claude"}, []string{"claude-y"}},
		{[]string{"claude-lent", "gpt-*"}, nil, []string{"gpt-x"}},
		{[]string{"claude-lent", "gpt-*"}, []string{"claude"}, []string{}},
	} {
		s := narrowed(t, row.models, row.pools)
		id := s.call("POST", "/v1/jobs", "t", `{"model":"claude-lent","prompt":"p"}`).want(t, 202).str(t, "id")
		job, err := s.world.Job(t.Context(), "acme", id)
		if err != nil || !slices.Equal(job.Fallback, row.want) || (job.Fallback == nil) != (row.want == nil) {
			t.Errorf("models %q, pools %q: lent %#v, %v; want %#v", row.models, row.pools, job.Fallback, err, row.want)
		}
	}
}
