package web

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// A prompt is shown on its own page, to its tenant and, noted, to the scope content; never to monitor.
func TestAPromptIsBehindAClick(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t)
	id, theirs := s.job("acme", "claude-x", ""), s.job("globex", "claude-x", "")
	for token, want := range map[string]int{"own": 200, "reader": 200, "writer": 403, "look": 403, "change": 403} {
		a := s.as(token, "GET", "/jobs/"+id+"/prompt")
		if s.want(a, want); strings.Contains(a.body, "ask-canary") != (want == 200) {
			t.Errorf("%s: the prompt is shown, or is not:\n%s", token, a.body)
		}
		if p := s.as(token, "GET", "/jobs/"+id); strings.Contains(p.body, `id="prompt"`) != (want == 200) || strings.Contains(p.body, "ask-canary") {
			t.Errorf("%s: the job's page has the link, or has it not:\n%s", token, p.body)
		}
	}
	s.want(s.as("own", "GET", "/jobs/"+theirs+"/prompt"), 404)
	s.want(s.as("own", "GET", "/jobs/"+id+"/prompt"), 200, "Prompt of", `id="curl"`, "/v1/jobs -d &#39;{", "&lt;script&gt;")
	if s.audit() != "ada look "+id { // an admin's look that is refused
		t.Errorf("noted %q", s.audit())
	}
	s.want(s.as("reads-all", "GET", "/jobs/"+theirs+"/prompt"), 200, "ask-canary", "in the audit")
	if s.audit() != "ada look "+id+"; olga look "+theirs {
		t.Errorf("noted %q", s.audit())
	}
	s.want(s.as("own", "GET", "/jobs/"+s.job("acme", "claude-x", "yes")+"/prompt"), 200, "no longer kept")
	s.deafen()
	if a := s.as("reads-all", "GET", "/jobs/"+theirs+"/prompt"); a.StatusCode != 503 || strings.Contains(a.body, "canary") {
		t.Errorf("a look that could not be noted: %d\n%s", a.StatusCode, a.body)
	}
}

// What is copied as curl submits the same: model, form, limit, lane, fallbacks and metadata, whatever a shell makes of it.
func TestWhatIsCopiedSubmitsTheSame(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ kind, body, want string }{
		{"prompt", `"it's $HOME \"x\" \u003c&"`, `"prompt":"it's $HOME \"x\" <&"`},
		{"messages", `{"messages":[{"role":"user","content":"a"}],"system":"b"}`, `"messages":[{"role":"user","content":"a"}]`},
		{"request", `{"temperature":0.2,"x":1e3}`, `"request":{"temperature":0.2,"x":1e3}`},
	} {
		j := tasks.Job{
			Model: "m", Priority: tasks.High, Fallback: []string{"n"}, Metadata: map[string]string{"k": "v"},
			Request: tasks.Request{Kind: tasks.Kind(row.kind), Body: []byte(row.body), MaxTokens: 7},
		}
		b, err := submitBody(&j)
		if err != nil {
			t.Fatal(err)
		}
		if sh, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+quotedForShell(string(b))).Output(); err != nil || string(sh) != string(b) {
			t.Errorf("%s: a shell reads %s, want %s (%v)", row.kind, sh, b, err)
		}
		var got, want map[string]any
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(`{"model":"m","priority":"high","fallback_models":["n"],"metadata":{"k":"v"},"max_tokens":7,`+row.want+`}`), &want); err != nil {
			t.Fatal(err)
		}
		delete(got, "system")
		if g, w := marshal(t, got), marshal(t, want); g != w {
			t.Errorf("%s: %s, want %s", row.kind, g, w)
		}
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What a job cost is told where it is known, and what it may have cost apart from that.
func TestWhatAJobCostIsTold(t *testing.T) {
	t.Parallel()
	log := func(costs ...*tasks.Cost) (all []tasks.Attempt) {
		for i, c := range costs {
			all = append(all, tasks.Attempt{N: i + 1, Outcome: tasks.Succeeded, StartedAt: noon, EndedAt: noon.Add(time.Second), Cost: c})
		}
		return all
	}
	for want, j := range map[string]tasks.Job{
		"":                                 {Log: log(nil)},
		"0.0105 USD":                       {Log: log(nil, &tasks.Cost{Amount: 10_500_000})},
		"0.003 USD, and maybe 0.0005 more": {Log: log(&tasks.Cost{Amount: 1_000_000, Maybe: 500_000}, &tasks.Cost{Amount: 2_000_000})},
		"0 USD, and maybe 1 more":          {Log: log(&tasks.Cost{Maybe: tasks.Unit})},
	} {
		got := ""
		for _, f := range facts(&j, noon) {
			if f.Name == "Cost" {
				got = f.Value
			}
		}
		if got != want {
			t.Errorf("cost is %q, want %q", got, want)
		}
	}
	if c := calls(&tasks.Job{Log: log(&tasks.Cost{Amount: tasks.Unit})}, noon); !strings.Contains(c[0].Detail, "1 USD") {
		t.Errorf("the call's line is %q", c[0].Detail)
	}
}

// deafen has nothing be noted any more.
func (s *jobsSite) deafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = errors.New("Redis is away")
}
