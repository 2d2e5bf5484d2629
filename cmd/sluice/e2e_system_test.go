package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	main "github.com/sluicehq/sluice/cmd/sluice"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// The tests of this package see Sluice as a stranger does: an API and a worker,
// each a process of its own, on a real Redis, with a provider that writes down
// what it is sent. They know nothing but the public contract.

// secret signs the tests' tokens. It must be found nowhere.
const secret = "secret-canary-that-is-long-enough"

// provider is the fake provider behind a recorder.
type provider struct {
	*httptest.Server
	mu   sync.Mutex
	seen []sent
	held map[string]chan struct{} // by mark: closed when those calls may go on
}

// sent is one call as the provider received it.
type sent struct {
	path   string
	header http.Header
	body   []byte
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	answerer, err := fake.New(fake.Config{MeanOutputTokens: 8})
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{held: map[string]chan struct{}{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.seen = append(p.seen, sent{r.URL.Path, r.Header.Clone(), body})
		var goOn chan struct{}
		for mark, c := range p.held {
			if bytes.Contains(body, []byte(mark)) {
				goOn = c
			}
		}
		p.mu.Unlock()
		if goOn != nil {
			select {
			case <-goOn:
			case <-r.Context().Done():
				return
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answerer.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		answerer.Close()
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

// hold keeps calls whose body holds a mark, as a slow provider does, until the release.
func (p *provider) hold(mark string) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan struct{})
	p.held[mark] = c
	return func() { close(c) }
}

// calls returns the calls whose body holds a mark.
func (p *provider) calls(mark string) []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []sent
	for _, s := range p.seen {
		if bytes.Contains(s.body, []byte(mark)) {
			out = append(out, s)
		}
	}
	return out
}

// stream keeps what a process writes.
type stream struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// process is a running sluice.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr stream
	done           chan struct{}
}

// start runs the program as a child that is gone when the test ends. With a variable
// GORACE it has the race detector, whose report fails the test.
func start(t *testing.T, environ []string, args ...string) *process {
	t.Helper()
	return startWith(t, nil, environ, args...)
}

// startWith is start with attributes of the system's, such as a namespace.
func startWith(t *testing.T, attributes *syscall.SysProcAttr, environ []string, args ...string) *process {
	t.Helper()
	path := main.Sluice(t)
	if slices.ContainsFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, "GORACE=") }) {
		path = main.Raced(t)
	}
	p := &process{t: t, done: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{
		"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "SLUICE_AUTH__HMAC_SECRET=" + secret,
		"SLUICE_LISTEN=127.0.0.1:0", "SLUICE_OPS_LISTEN=127.0.0.1:0", "SLUICE_DRAIN_DELAY=0s",
	}, environ...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = &p.stdout, &p.stderr, attributes
	if err := p.cmd.Start(); err != nil {
		if attributes != nil {
			t.Skipf("not with these attributes: %v", err)
		}
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if said := p.stderr.String(); strings.Contains(said, "WARNING: DATA RACE") {
			t.Errorf("a data race:\n%s", said)
		}
		if t.Failed() {
			var told []string
			for line := range strings.Lines(p.stderr.String()) {
				if !strings.Contains(line, `"msg":"request"`) {
					told = append(told, line)
				}
			}
			t.Logf("%s wrote:\n%s", strings.Join(args, " "), strings.Join(told[max(0, len(told)-40):], ""))
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal: %v", err)
	}
}

// exits waits for the end of the process and returns its code, -1 for a signal.
func (p *process) exits() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.t.Fatal("the process does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// address is where the process says in its log that something of it listens.
func (p *process) address(what string) (at string) {
	p.t.Helper()
	eventually(p.t, "the process says "+what, func() bool {
		for line := range strings.Lines(p.stderr.String()) {
			var entry struct{ Msg, Address string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == what {
				at = entry.Address
			}
		}
		return at != ""
	})
	return at
}

// ops is the address of its metrics and health.
func (p *process) ops() string { return p.address("metrics and health") }

// system is an API and a worker on one Redis.
type system struct {
	t           *testing.T
	provider    *provider
	redis       *redistest.Server
	environ     []string
	api, worker *process
	url         string
	transport   *http.Transport
}

// newSystem starts one. settings are environment variables.
func newSystem(t *testing.T, redis []string, settings ...string) *system {
	t.Helper()
	s := &system{
		t: t, provider: newProvider(t), redis: redistest.Start(t, redistest.Options{AOF: "always", Args: redis}),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16},
	}
	t.Cleanup(s.transport.CloseIdleConnections)
	config := filepath.Join(t.TempDir(), "sluice.yaml")
	err := os.WriteFile(config, fmt.Appendf(nil, `
redis: {url: %q}
providers:
  anthropic: {dialect: anthropic, base_url: %q, api_key: key-canary-anthropic}
  openai: {dialect: openai, base_url: "%s/v1", api_key: key-canary-openai}
pools:
  claude:
    provider: anthropic
    models: ["claude-*"]
    limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 64, input_tokens_per_minute: 0, output_tokens_per_minute: 0}
  single:
    provider: anthropic
    models: ["single-*"]
    limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 1, input_tokens_per_minute: 0, output_tokens_per_minute: 0}
  halted:
    provider: anthropic
    models: ["halted-*"]
    limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 8, input_tokens_per_minute: 0, output_tokens_per_minute: 0}
  ordered:
    provider: anthropic
    models: ["ordered-*"]
    limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 1, input_tokens_per_minute: 0, output_tokens_per_minute: 0}
  gpt:
    provider: openai
    models: ["gpt-*"]
    limits: {requests_per_minute: 60000, request_burst: 1000, concurrency: 8, input_tokens_per_minute: 0, output_tokens_per_minute: 0}
tenants:
  default: {submits_per_minute: 0, queued_jobs: 0}
  small: {submits_per_minute: 2}
`, s.redis.URL(), s.provider.URL, s.provider.URL), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s.environ = append([]string{"SLUICE_CONFIG=" + config}, settings...)
	s.startAPI()
	s.worker = s.startWorker()
	return s
}

func (s *system) startAPI() {
	s.t.Helper()
	s.api = start(s.t, s.environ, "api")
	s.url = "http://" + s.api.address("listening")
}

func (s *system) startWorker(args ...string) *process {
	s.t.Helper()
	w := start(s.t, s.environ, append([]string{"worker"}, args...)...)
	eventually(s.t, "the worker is ready", func() bool { return s.probe(w, "/readyz") == 200 })
	return w
}

// probe asks a process's operations port; 0 when nobody answers.
func (s *system) probe(p *process, path string) int {
	res, err := caller{s, s.t, ""}.send(http.MethodGet, "http://"+p.ops()+path, "")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

var eventually = redistest.Until

// token mints one for a tenant; without scopes, one for jobs.
func token(t *testing.T, tenant string, scopes ...string) string {
	t.Helper()
	if len(scopes) == 0 {
		scopes = []string{auth.ScopeJobsRead, auth.ScopeJobsWrite}
	}
	raw, err := auth.Mint(auth.MintConfig{
		Secret: []byte(secret), Issuer: "sluice", Audience: "sluice", Subject: "tester", Tenant: tenant, Scopes: scopes, TTL: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// get returns the value at a path of names ("error.code") in a JSON object.
func (r reply) get(path string) any {
	var v any
	if json.Unmarshal(r.body, &v) != nil {
		return nil
	}
	return at(v, path)
}

func (r reply) str(path string) string {
	s, _ := r.get(path).(string)
	return s
}

// num is -1 when there is no number.
func (r reply) num(path string) float64 {
	n, ok := r.get(path).(float64)
	if !ok {
		return -1
	}
	return n
}

func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		o, _ := v.(map[string]any)
		v = o[name]
	}
	return v
}

// caller asks the API with one token.
type caller struct {
	*system
	t     *testing.T
	token string
}

func (s *system) as(t *testing.T, tenant string, scopes ...string) caller {
	t.Helper()
	return caller{s, t, token(t, tenant, scopes...)}
}

// do sends a request; headers are names and values in turn.
func (c caller) do(method, path, body string, headers ...string) reply {
	c.t.Helper()
	res, err := c.send(method, path, body, headers...)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
		return reply{}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
	}
	return reply{res.StatusCode, res.Header, b}
}

func (c caller) send(method, path, body string, headers ...string) (*http.Response, error) {
	url := path
	if strings.HasPrefix(path, "/") {
		url = c.url + path
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return c.transport.RoundTrip(req)
}

// want fails the test unless the status is as expected and every error a problem.
func (r reply) want(t *testing.T, status int) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d; want %d: %s", r.status, status, r.body)
	}
	if status >= 400 {
		r.isProblem(t)
	}
	return r
}

func (r reply) isProblem(t *testing.T) {
	t.Helper()
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%d: Content-Type %q; want a problem: %s", r.status, got, r.body)
		return
	}
	for _, name := range []string{"type", "title", "code", "detail", "request_id"} {
		if r.str(name) == "" {
			t.Errorf("%d: the problem has no %s: %s", r.status, name, r.body)
		}
	}
	if r.num("status") != float64(r.status) {
		t.Errorf("the problem says status %v; the answer is %d", r.get("status"), r.status)
	}
}

// post sends again, as any caller does, what is refused because Redis did not say in
// time what was revoked: on a busy machine half a second is not much.
func (c caller) post(path, body string, headers ...string) reply {
	c.t.Helper()
	for tries := 0; ; tries++ {
		r := c.do("POST", path, body, headers...)
		if r.status != 503 || tries == 40 || !strings.Contains(r.str("detail"), "whether the token was revoked") {
			return r
		}
		<-time.After(250 * time.Millisecond)
	}
}

// submit has a job accepted and returns its id.
func (c caller) submit(body string, headers ...string) string {
	c.t.Helper()
	return c.post("/v1/jobs", body, headers...).want(c.t, 202).str("id")
}

// due has a job accepted whose deadline, %q in the body, is so soon. On a busy machine
// that may be over before it comes to the API; then it is a later one.
func (c caller) due(in time.Duration, body string) string {
	c.t.Helper()
	for ; ; in *= 4 {
		r := c.post("/v1/jobs", fmt.Sprintf(body, time.Now().Add(in).Format(time.RFC3339Nano)))
		if r.status != 422 || in > patience {
			return r.want(c.t, 202).str("id")
		}
	}
}

// patience bounds what is tried again with more time.
const patience = time.Minute

// final waits for the job's end.
func (c caller) final(id string) reply {
	c.t.Helper()
	var r reply
	eventually(c.t, id+" ends", func() bool {
		r = c.do("GET", "/v1/jobs/"+id+"?wait=5", "").want(c.t, 200)
		return tasks.Status(r.str("status")).Final()
	})
	return r
}

func prompt(model, text string) string {
	return fmt.Sprintf(`{"model":%q,"prompt":%q}`, model, text)
}
