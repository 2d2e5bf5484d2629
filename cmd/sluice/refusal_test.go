package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/cmd/sluice/drain"
)

// moody is a provider of Anthropic's dialect that refuses prompts that hold
// POISON, or, while revoked, everything.
type moody struct {
	*httptest.Server
	mu      sync.Mutex
	status  int    // of a refusal
	body    string // of it
	revoked bool
	passing int // how many further calls are refused, whatever they hold
	calls   int // of jobs
	all     int
}

const flagged = `{"type":"error","error":{"type":"permission_error","message":"your input was flagged by moderation"}}`

func newMoody(t *testing.T) *moody {
	m := &moody{status: 403, body: flagged}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		m.mu.Lock()
		m.all++
		list := r.Method == http.MethodGet
		refuse := m.revoked || bytes.Contains(raw, []byte("POISON"))
		if !list && !bytes.Contains(raw, []byte(`"ping"`)) {
			m.calls++
			if m.passing > 0 {
				m.passing--
				refuse = true
			}
		}
		status, body := 200, `{"id":"msg","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":1}}`
		switch {
		case refuse:
			status, body = m.status, m.body
		case list:
			body = `{"data":[{"id":"claude-sonnet-4-5"}]}`
		}
		m.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *moody) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *moody) called() (n int) { m.set(func() { n = m.calls }); return n }

// A tenant's prompt that the provider refuses fails with the provider's words, and
// another tenant's job runs, also when the refusal is the pool's first answer.
func TestATenantsRefusedPromptStopsNoOtherTenant(t *testing.T) {
	t.Parallel()
	m := newMoody(t)
	r := outage(t, claude(m.URL))
	poison := strings.Replace(hello, "hello", "POISON", 1)
	var bad, good jobView
	for range 3 {
		r.call("POST", "/v1/jobs", poison, &bad)
		r.token = r.mint("other")
		if res := r.call("POST", "/v1/jobs", hello, &good, "Prefer", "wait=20"); res.StatusCode != http.StatusOK || good.Status != "succeeded" {
			t.Errorf("the other tenant's job: %s %+v", res.Status, good)
		}
		r.token = r.mint("acme")
		j := r.final(bad.ID)
		if j.Status != "failed" || j.Error == nil || j.Error.Code != "upstream_rejected" || j.outcomes() != "rejected" {
			t.Errorf("the refused job: %+v", j)
		}
		var words struct{ Error struct{ Message string } }
		r.call("GET", "/v1/jobs/"+bad.ID, "", &words)
		if !strings.Contains(words.Error.Message, "your input was flagged by moderation") {
			t.Errorf("its owner is told %q", words.Error.Message)
		}
		if p := r.pool("claude"); p.State == "paused" {
			t.Errorf("pool %+v", p)
		}
	}
}

// After a resume the pool goes on, whatever was held against the key before, and
// goes on still when a refused prompt is asked again.
func TestAResumeGoesOnAndOneRefusedPromptDoesNotUndoIt(t *testing.T) {
	t.Parallel()
	m := newMoody(t)
	m.revoked, m.status, m.body = true, 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`
	r := outage(t, claude(m.URL))
	first := r.submit()
	r.until("the pool is paused", func() bool { return r.pool("claude").State == "paused" })
	if p := r.pool("claude"); p.Reason != "unauthorized" || p.Probe == nil {
		t.Errorf("pool %+v; want it paused, with another probe to come", p)
	}
	m.set(func() { m.revoked, m.status, m.body = false, 403, flagged })
	var p poolView
	r.call("POST", "/v1/pools/claude/resume", "", &p)
	if j := r.final(first); j.Status != "succeeded" || j.Attempts != 1 {
		t.Errorf("job %+v", j)
	}
	var bad jobView
	r.call("POST", "/v1/jobs", strings.Replace(hello, "hello", "POISON", 1), &bad, "Prefer", "wait=20")
	if bad.Status != "failed" {
		t.Errorf("the refused job: %+v", bad)
	}
	if p := r.pool("claude"); p.State == "paused" {
		t.Errorf("pool %+v", p)
	}
}

// drainFile runs a file of n prompts, the fifth of which holds POISON.
func drainFile(t *testing.T, m *moody, dir string, n int) (errText string, byStatus map[string]int) {
	t.Helper()
	var in bytes.Buffer
	for i := range n {
		prompt := fmt.Sprint("prompt ", i+1)
		if i == 4 {
			prompt = "POISON"
		}
		fmt.Fprintf(&in, "{\"model\":\"claude-sonnet-4-5\",\"prompt\":%q,\"max_tokens\":16}\n", prompt)
	}
	file, out, yaml := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "sluice.yaml")
	for name, content := range map[string]string{file: in.String(), yaml: claude(m.URL)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, faults := config.Load(yaml, []string{"HOME=" + dir, "SLUICE_DATA_DIR=" + filepath.Join(dir, "data")})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	var stderr bytes.Buffer
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	if err := drain.Run(t.Context(), drainConfig(cfg, 0, log, strings.NewReader(""), io.Discard, &stderr), drain.Options{File: file, Out: out}); err != nil {
		errText = err.Error()
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	byStatus = map[string]int{}
	for line := range bytes.Lines(raw) {
		var row struct{ Status string }
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		byStatus[row.Status]++
	}
	return errText, byStatus
}

func TestARunGoesOnPastAPromptThatIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
	}{
		{403, flagged}, {403, "<html>Attention Required! | Cloudflare</html>"}, {402, `{"error":{"message":"fewer max_tokens"}}`}, {401, flagged},
	} {
		t.Run(fmt.Sprint(c.status, c.body[:6]), func(t *testing.T) {
			t.Parallel()
			m := newMoody(t)
			m.status, m.body = c.status, c.body
			dir := t.TempDir()
			text, rows := drainFile(t, m, dir, 30)
			if !strings.Contains(text, "1 of 30 jobs failed") || rows["succeeded"] != 29 || rows["failed"] != 1 {
				t.Errorf("got %q, rows %v", text, rows)
			}
			before := m.called()
			m.set(func() {
				m.status, m.body = 200, `{"type":"message","role":"assistant","content":[],"stop_reason":"end_turn"}`
			})
			text, rows = drainFile(t, m, dir, 30)
			if text != "" || rows["succeeded"] != 30 || m.called() != before+1 {
				t.Errorf("the command again: %q, rows %v, %d calls; want the failed line alone asked", text, rows, m.called()-before)
			}
		})
	}
}

// One line of a pool whose key is refused keeps no other pool's lines from their
// results.
func TestARefusedPoolEndsARunOnlyWhenNothingElseIsLeft(t *testing.T) {
	t.Parallel()
	good, bad := newMoody(t), newMoody(t)
	bad.revoked, bad.status, bad.body = true, 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`
	dir := t.TempDir()
	file, out, yaml := filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "sluice.yaml")
	in := `{"model":"gpt-5","prompt":"first","max_tokens":16}` + "\n"
	for i := range 30 {
		in += fmt.Sprintf("{\"model\":\"claude-sonnet-4-5\",\"prompt\":\"prompt %d\",\"max_tokens\":16}\n", i)
	}
	pools := strings.Replace(both(good.URL, bad.URL, ""), "dialect: openai", "dialect: anthropic", 1)
	for name, content := range map[string]string{file: in, yaml: pools} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, faults := config.Load(yaml, []string{"HOME=" + dir, "SLUICE_DATA_DIR=" + filepath.Join(dir, "data")})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	err := drain.Run(t.Context(), drainConfig(cfg, 0, log, strings.NewReader(""), io.Discard, io.Discard), drain.Options{File: file, Out: out})
	if err == nil || !strings.Contains(err.Error(), "pool gpt refuses the key") {
		t.Errorf("got %v", err)
	}
	rows, err := os.ReadFile(out)
	if err != nil || bytes.Count(rows, []byte(`"status":"succeeded"`)) != 30 {
		t.Errorf("%d lines have their results, want the other pool's 30: %v", bytes.Count(rows, []byte("\n")), err)
	}
}

func TestAPassingRefusalOfTheKeyEndsNoRun(t *testing.T) {
	t.Parallel()
	m := newMoody(t)
	m.status, m.body, m.passing = 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`, 1
	if text, rows := drainFile(t, m, t.TempDir(), 4); text != "" || rows["succeeded"] != 4 {
		t.Errorf("got %q, rows %v", text, rows)
	}
}

// While the key is refused a run ends and says so; the same command asks again
// each time it is given, and goes on once the key is taken.
func TestARunWhoseKeyIsRefusedAsksAgainWhenBegunAgain(t *testing.T) {
	t.Parallel()
	m := newMoody(t)
	m.revoked, m.status, m.body = true, 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`
	dir := t.TempDir()
	for i := range 2 {
		before := m.called()
		if text, rows := drainFile(t, m, dir, 4); !strings.Contains(text, "refuses the key") || len(rows) != 0 || m.called() == before {
			t.Errorf("run %d: %q, rows %v, %d calls", i+1, text, rows, m.called()-before)
		}
	}
	m.set(func() { m.revoked = false })
	if text, rows := drainFile(t, m, dir, 4); text != "" || rows["succeeded"] != 4 {
		t.Errorf("with the key taken: %q, rows %v", text, rows)
	}
}
