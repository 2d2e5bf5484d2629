package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/tasks/redistest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const (
	public = "https://sluice.example/base"
	writer = "acme:jobs:read,jobs:write"
	reader = "acme:jobs:read"
	other  = "other:jobs:read,jobs:write,admin"
	admin  = "ops:admin"
)

func openSpec(t testing.TB) spec {
	t.Helper()
	s, err := loadSpec()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return s
}

// conforms checks a value against a schema of openapi.yaml.
func conforms(t testing.TB, schema string, body []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Errorf("not JSON: %v: %.200s", err, body)
		return
	}
	s := openSpec(t)
	if err := s.schemas.holds(s.doc.Components.Schemas[schema], v); err != nil {
		t.Errorf("not a %s: %v\n%.600s", schema, err, body)
	}
}

// site is an API that serves over HTTP in front of a world.
type site struct {
	t        testing.TB
	world    *world
	api      *api.API
	url      string
	client   *http.Client
	log      *lockedBuffer
	registry *prometheus.Registry
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t testing.TB, change ...func(*api.Config)) *site {
	t.Helper()
	w := newWorld()
	s := &site{t: t, world: w, log: new(lockedBuffer), registry: prometheus.NewPedanticRegistry()}
	c := api.Config{
		Jobs: w, Batches: w, Notices: w, Pools: w, Partials: w, PoolControl: w, Quota: w, Tokens: w, Audit: w, Usage: w, Tenants: w, Quotas: submitsOf{}, Mint: mintOf, Verifier: w, NewID: w.newID,
		PublicURL: public + "/", Registerer: s.registry, DeltaEvery: 5 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(s.log, nil)),
	}
	for _, f := range change {
		f(&c)
	}
	a, err := api.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.api = a
	server := httptest.NewServer(a.Handler())
	s.url, s.client = server.URL, server.Client()
	t.Cleanup(func() {
		a.Drain()
		server.Close()
		s.client.CloseIdleConnections()
	})
	return s
}

func room(t testing.TB, c caps.Config) *caps.Room {
	t.Helper()
	r, err := caps.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body []byte
}

func (r reply) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%s: the answer is not JSON: %v: %.200s", r.Status, err, r.body)
	}
	return v
}

func (r reply) str(t testing.TB, name string) string {
	t.Helper()
	s, _ := r.json(t)[name].(string)
	return s
}

// call is one request. Headers come in pairs; a value of "" removes one.
func (s *site) call(method, path, token string, body any, headers ...string) reply {
	s.t.Helper()
	return s.callContext(context.Background(), method, path, token, body, headers...)
}

func (s *site) request(ctx context.Context, method, path, token string, body any, headers ...string) *http.Request {
	s.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r = b
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

func (s *site) callContext(ctx context.Context, method, path, token string, body any, headers ...string) reply {
	s.t.Helper()
	req := s.request(ctx, method, path, token, body, headers...)
	res, err := s.client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	r := reply{res, got}
	s.check(req, r)
	return r
}

// check holds every answer of every test to openapi.yaml.
func (s *site) check(req *http.Request, r reply) {
	s.t.Helper()
	if r.Header.Get("X-Content-Type-Options") != "nosniff" {
		s.t.Errorf("%s %s: no nosniff", req.Method, req.URL.Path)
	}
	if r.StatusCode >= 400 && req.Method != http.MethodHead && req.URL.Path != "/readyz" && !ofProvider(req.URL.Path) {
		if ct := r.Header.Get("Content-Type"); ct != "application/problem+json" {
			s.t.Errorf("%s %s: %d as %q, want a problem", req.Method, req.URL.Path, r.StatusCode, ct)
		}
		conforms(s.t, "Problem", r.body)
		p := r.json(s.t)
		if int(p["status"].(float64)) != r.StatusCode || p["type"] != "urn:sluice:problem:"+p["code"].(string) {
			s.t.Errorf("%s %s: %d with the problem %s", req.Method, req.URL.Path, r.StatusCode, r.body)
		}
		if p["request_id"] != r.Header.Get("X-Request-Id") {
			s.t.Errorf("%s %s: request_id %v, X-Request-Id %q", req.Method, req.URL.Path, p["request_id"], r.Header.Get("X-Request-Id"))
		}
	}
	if req.Method == http.MethodHead {
		return // what GET answers, without a body to judge
	}
	again := req.Clone(req.Context())
	again.URL.Scheme, again.URL.Host, again.Host = "", "", ""
	spec := openSpec(s.t)
	route, _, err := spec.router.FindRoute(again)
	if err != nil {
		if r.StatusCode != http.StatusNotFound && r.StatusCode != http.StatusMethodNotAllowed && r.StatusCode != http.StatusNoContent {
			s.t.Errorf("%s %s: %d from a route that openapi.yaml lacks: %v", req.Method, req.URL.Path, r.StatusCode, err)
		}
		return
	}
	if err := spec.answers(route.Operation, r); err != nil {
		s.t.Errorf("%s %s: %d does not conform to openapi.yaml: %v\n%.800s", req.Method, req.URL.Path, r.StatusCode, err, r.body)
	}
}

// want fails the test unless the answer has the status (and code, when given).
func (r reply) want(t testing.TB, status int, code ...string) reply {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("%s %s: got %d, want %d: %.400s", r.Request.Method, r.Request.URL.Path, r.StatusCode, status, r.body)
	}
	if len(code) > 0 {
		if got := r.str(t, "code"); got != code[0] {
			t.Fatalf("%s %s: got code %q, want %q: %s", r.Request.Method, r.Request.URL.Path, got, code[0], r.body)
		}
	}
	return r
}

const hello = `{"model":"claude-x","prompt":"Say hello."}`

// submit submits a job and returns its id.
func (s *site) submit(headers ...string) string {
	s.t.Helper()
	return s.call("POST", "/v1/jobs", writer, hello, headers...).want(s.t, 202).str(s.t, "id")
}

var until = redistest.Until

// event is one server-sent event; a comment has only that.
type event struct {
	id, name, data, comment string
}

// stream opens an event stream and returns a function that reads the next
// event, false at the end.
func (s *site) stream(ctx context.Context, path, token string, headers ...string) func() (event, bool) {
	s.t.Helper()
	res, err := s.client.Do(s.request(ctx, "GET", path, token, nil, headers...))
	if err != nil {
		s.t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		s.t.Fatalf("GET %s: %s as %q: %s", path, res.Status, res.Header.Get("Content-Type"), body)
	}
	s.t.Cleanup(func() { res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	return func() (e event, ok bool) {
		for lines.Scan() {
			line := lines.Text()
			switch name, value, _ := strings.Cut(line, ": "); {
			case line == "":
				if e != (event{}) {
					return e, true
				}
			case name == "":
				e.comment = value
			case name == "id":
				e.id = value
			case name == "event":
				e.name = value
			case name == "data":
				e.data += value
			}
		}
		return e, false
	}
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// batch submits lines and returns the batch's id.
func (s *site) batch(lines ...string) string {
	s.t.Helper()
	return s.call("POST", "/v1/batches", writer, strings.Join(lines, "\n"), "Content-Type", "application/x-ndjson").want(s.t, 202).str(s.t, "id")
}
