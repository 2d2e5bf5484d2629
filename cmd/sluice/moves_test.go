package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/api/auth"
	main "github.com/sluicehq/sluice/cmd/sluice"
	"github.com/sluicehq/sluice/tasks"
)

// moves runs a block of docs/moves.md as it is.
func moves(t *testing.T, block string, environ ...string) {
	t.Helper()
	main.Needs(t, "sh", "redis-server", "redis-cli")
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "moves.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := regexp.MustCompile(`(?s)<!-- ` + block + ` -->\n` + "```sh\n(.*?)```").FindSubmatch(page)
	if script == nil {
		t.Fatalf("docs/moves.md has no block %q", block)
	}
	shell := exec.CommandContext(t.Context(), "sh", "-eu", "-c", string(script[1]))
	shell.Dir, shell.Env = t.TempDir(), append([]string{"PATH=" + os.Getenv("PATH")}, environ...)
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("the commands of %q: %v\n%s", block, err, out)
	}
}

// movable is a Sluice whose Redis changes.
type movable struct {
	*system
	c       caller
	arrived atomic.Int64 // webhooks
	hook    string
	ids     map[string]string
}

func newMovable(t *testing.T) *movable {
	m := &movable{system: &system{t: t, provider: newProvider(t), transport: &http.Transport{DisableCompression: true}}, ids: map[string]string{}}
	t.Cleanup(m.transport.CloseIdleConnections)
	// The first delivery is cut off by what happens to its sender.
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else nobody sees that the sender goes
		if m.arrived.Add(1) == 1 {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(receiver.Close)
	m.hook = receiver.URL
	config := filepath.Join(t.TempDir(), "sluice.yaml")
	limits := "limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 16, input_tokens_per_minute: 0, output_tokens_per_minute: 0}"
	if err := os.WriteFile(config, fmt.Appendf(nil, `
providers: {anthropic: {dialect: anthropic, base_url: %q, api_key: key}}
pools:
  claude: {provider: anthropic, models: ["claude-*"], %s}
  halted: {provider: anthropic, models: ["halted-*"], %s}
webhooks: {allow_http: true, allow_private: true}
`, m.provider.URL, limits, limits), 0o600); err != nil {
		t.Fatal(err)
	}
	m.environ = []string{"SLUICE_CONFIG=" + config}
	m.c = m.as(t, "acme", auth.ScopeJobsRead, auth.ScopeJobsWrite, auth.ScopeWebhooksWrite, auth.ScopeAdmin)
	return m
}

// run starts the program with settings and waits until it listens.
func (m *movable) run(settings []string, args ...string) *process {
	m.t.Helper()
	p := start(m.t, append(append([]string{}, m.environ...), settings...), args...)
	listens := regexp.MustCompile(`"msg":"listening","address":"([^"]+)"`)
	eventually(m.t, "sluice "+args[0]+" works", func() bool {
		if args[0] != "worker" {
			at := listens.FindStringSubmatch(p.stderr.String())
			if at == nil {
				return false
			}
			m.url = "http://" + at[1]
		}
		return m.probe(p, "/readyz") == 200
	})
	return p
}

const long = 20_000 // bytes, above bodies.above

// fill has jobs in every state, a batch of each pool, and a webhook on its way.
func (m *movable) fill() {
	m.t.Helper()
	c, submit := m.c, m.c.submit
	large := strings.Repeat("a long prompt ", long/14)
	c.do("POST", "/v1/pools/halted/pause", `{"reason":"a move"}`).want(m.t, 200)
	m.ids["done"] = submit(prompt("claude-x", "done small"))
	m.ids["done, large"] = submit(prompt("claude-x", "done large [[tokens:6000]] "+large))
	for name, id := range m.ids {
		if f := c.final(id); f.str("status") != "succeeded" {
			m.t.Fatalf("%s: %s", name, f.body)
		}
	}
	m.ids["waiting"] = submit(prompt("halted-x", "waiting small"))
	m.ids["waiting, large"] = submit(prompt("halted-x", "waiting large "+large))
	m.ids["scheduled"] = submit(fmt.Sprintf(`{"model":"claude-x","prompt":"scheduled","not_before":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	batch := func(model string) string {
		return c.do("POST", "/v1/batches", fmt.Sprintf(`{"jobs":[{"custom_id":"a","model":%q,"prompt":"batch %s a"},{"custom_id":"b","model":%q,"prompt":"batch %s b %s"}]}`,
			model, model, model, model, large)).want(m.t, 202).str("id")
	}
	m.ids["batch, done"], m.ids["batch, waiting"] = batch("claude-x"), batch("halted-x")
	m.ids["told"] = submit(fmt.Sprintf(`{"model":"claude-x","prompt":"told","webhook_url":%q}`, m.hook))
	c.final(m.ids["told"])
	eventually(m.t, "a batch ends", func() bool { return c.do("GET", "/v1/batches/"+m.ids["batch, done"], "").str("status") == "ended" })
	m.ids["running"] = submit(prompt("claude-x", "running [[fault:hang:1]]"))
	eventually(m.t, "a call and a delivery are under way", func() bool { return len(m.provider.calls("running [[")) == 1 && m.arrived.Load() == 1 })
}

// snapshot is what a caller sees of what has ended.
func (m *movable) snapshot() map[string]string {
	m.t.Helper()
	seen := map[string]string{}
	for _, name := range []string{"done", "done, large"} {
		r := m.c.do("GET", "/v1/jobs/"+m.ids[name], "").want(m.t, 200)
		seen[name] = fmt.Sprint(r.str("status"), r.str("text"), r.get("result"), r.get("usage"), r.get("upstream"))
	}
	seen["batch, done"] = string(m.c.do("GET", "/v1/batches/"+m.ids["batch, done"]+"/results", "").body)
	return seen
}

// check holds that nothing was lost, that all ends once, and what was asked twice says so.
func (m *movable) check(before map[string]string, lost string) {
	m.t.Helper()
	c := m.c
	for name, was := range m.snapshot() {
		if was == "" || was != before[name] {
			m.t.Errorf("%s: %.200s; was %.200s", name, was, before[name])
		}
	}
	for name, want := range map[string]string{"waiting": "queued", "waiting, large": "queued", "scheduled": "scheduled"} {
		if r := c.do("GET", "/v1/jobs/"+m.ids[name], ""); r.str("status") != want {
			m.t.Errorf("%s: %s", name, r.body)
		}
	}
	if n := len(m.provider.calls("waiting")) + len(m.provider.calls("batch halted")); n != 0 {
		m.t.Errorf("%d calls of a paused pool", n)
	}
	r := c.final(m.ids["running"])
	attempts, _ := r.get("upstream.attempts").([]any)
	if r.str("status") != "succeeded" || len(attempts) != 2 || at(attempts[0], "maybe_billed") != true || at(attempts[0], "outcome") != lost || len(m.provider.calls("running [[")) != 2 {
		m.t.Errorf("what ran meanwhile: %s", r.body)
	}
	c.do("POST", "/v1/pools/halted/resume", "").want(m.t, 200)
	for _, name := range []string{"waiting", "waiting, large"} {
		if r := c.final(m.ids[name]); r.str("status") != "succeeded" {
			m.t.Errorf("%s: %s", name, r.body)
		}
	}
	eventually(m.t, "the batch ends", func() bool { return c.do("GET", "/v1/batches/"+m.ids["batch, waiting"], "").str("status") == "ended" })
	if r := c.do("GET", "/v1/batches/"+m.ids["batch, waiting"], ""); r.num("counts.succeeded") != 2 || r.num("counts.total") != 2 {
		m.t.Errorf("the batch: %s", r.body)
	}
	for mark, want := range map[string]int{"done small": 1, "done large": 1, "waiting small": 1, "waiting large": 1, "batch claude-x": 2, "batch halted-x": 2, "told": 1, "scheduled": 0} {
		if n := len(m.provider.calls(mark)); n != want {
			m.t.Errorf("%q was asked %d times; want %d", mark, n, want)
		}
	}
	eventually(m.t, "the webhook arrives", func() bool { return m.arrived.Load() == 2 })
}

// stopRedis ends a server that the commands of the page have started.
func stopRedis(t *testing.T, socket string) {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, DialerRetries: 1})
	t.Cleanup(func() {
		// The test's context has ended by now; the server closes the connection in place of an answer.
		_ = rdb.ShutdownNoSave(context.WithoutCancel(t.Context())).Err()
		_ = rdb.Close()
	})
}

// A Sluice leaves the embedded Redis for one of its owner's by the commands of docs/moves.md.
func TestAMoveFromTheEmbeddedRedis(t *testing.T) {
	t.Parallel()
	m := newMovable(t)
	data, fresh := t.TempDir(), filepath.Join(t.TempDir(), "new")
	p := m.run([]string{"SLUICE_DATA_DIR=" + data}, "dev", "--grace", "100ms")
	m.fill()
	before := m.snapshot()
	p.signal(syscall.SIGTERM)
	if code := p.exits(); code != 0 {
		t.Fatalf("dev ends with %d", code)
	}
	moves(t, "move", "DATA="+data, "NEW="+fresh)
	stopRedis(t, filepath.Join(fresh, "redis.sock"))
	key, err := os.ReadFile(filepath.Join(data, "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	own := []string{
		"SLUICE_REDIS__URL=unix://" + fresh + "/redis.sock", "SLUICE_BODIES__URL=file://" + data + "/bodies", "SLUICE_DATA_DIR=" + data,
		`SLUICE_SEAL__KEYS={"local": "` + strings.TrimSpace(string(key)) + `"}`,
	}
	m.run(own, "api")
	m.run(own, "worker")
	m.check(before, string(tasks.HandedBack))
}

// A backup that was taken while everything ran, of which nothing was stopped in order,
// comes back into an embedded Redis by the commands of docs/moves.md.
func TestComingBackFromABackup(t *testing.T) {
	t.Parallel()
	m := newMovable(t)
	data, backup, back := t.TempDir(), filepath.Join(t.TempDir(), "backup"), t.TempDir()
	p := m.run([]string{"SLUICE_DATA_DIR=" + data}, "dev")
	m.fill()
	before := m.snapshot()
	moves(t, "backup", "SOCKET="+data+"/redis/redis.sock", "BODIES="+data+"/bodies", "BACKUP="+backup)
	p.signal(syscall.SIGKILL)
	p.exits()
	// The key that seals is kept elsewhere.
	if err := errors.Join(os.Rename(data+"/seal.key", back+"/seal.key"), os.RemoveAll(data)); err != nil {
		t.Fatal(err)
	}
	moves(t, "restore", "NEW="+back+"/redis", "BODIES="+back+"/bodies", "BACKUP="+backup)
	m.run([]string{"SLUICE_DATA_DIR=" + back}, "dev")
	m.check(before, string(tasks.WorkerLost))
}
