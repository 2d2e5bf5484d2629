package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/anthropic"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/api/openai"
	"github.com/sluicehq/sluice/tasks"
)

// described lists what openapi.yaml describes, as "METHOD /path".
func described(t *testing.T) []string {
	var list []string
	for path, item := range openSpec(t).doc.Paths.Map() {
		for method := range item.Operations() {
			list = append(list, method+" "+path)
		}
	}
	sort.Strings(list)
	return list
}

// ofProvider reports whether a route is of a provider's own form.
func ofProvider(path string) bool {
	return strings.HasPrefix(path, "/anthropic/") || strings.HasPrefix(path, "/openai/")
}

// operations lists what is described of our own form.
func operations(t *testing.T) []string {
	return slices.DeleteFunc(described(t), func(op string) bool {
		_, path, _ := strings.Cut(op, " ")
		return ofProvider(path)
	})
}

func TestRoutesAreThoseOfTheDescription(t *testing.T) {
	t.Parallel()
	whole := described(t)
	for name, row := range map[string]struct {
		change []func(*api.Config)
		want   []string
	}{
		"all":          {[]func(*api.Config){allForms}, whole},
		"ours alone":   {nil, operations(t)},
		"no documents": {[]func(*api.Config){allForms, func(c *api.Config) { c.Documents = nil }}, without(whole, "/openai/v1/files", "/openai/v1/batches")},
		"nobody to ask": {[]func(*api.Config){allForms, func(c *api.Config) { c.Anthropic = nil }},
			without(whole, "/anthropic/v1/models", "/anthropic/v1/messages/count_tokens")},
	} {
		routes := serve(t, row.change...).api.Routes()
		sort.Strings(routes)
		if !slices.Equal(routes, row.want) {
			t.Errorf("%s: the routes are\n%s\nopenapi.yaml has\n%s", name, strings.Join(routes, "\n"), strings.Join(row.want, "\n"))
		}
	}
}

// without is list but for the operations under some paths.
func without(list []string, prefixes ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(op string) bool {
		_, path, _ := strings.Cut(op, " ")
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(path, p) })
	})
}

// allForms has an API mount the providers' forms whole.
func allForms(c *api.Config) {
	w := c.Jobs.(*world)
	c.Calls, c.Documents, c.Anthropic = callers{w}, noDocuments{}, noProvider{}
}

// noDocuments keeps nothing.
type keeper = openai.Documents

type noDocuments struct{ keeper }

func (noDocuments) Document(context.Context, string, string) (tasks.Document, error) {
	return tasks.Document{}, tasks.ErrNotFound
}

func (noDocuments) Documents(context.Context, tasks.DocumentFilter) ([]tasks.Document, bool, error) {
	return nil, false, nil
}

// noProvider has no model.
type noProvider struct{}

func (noProvider) Models(context.Context) []anthropic.Model { return nil }

func (noProvider) Model(context.Context, string, string) (anthropic.Model, error) {
	return anthropic.Model{}, tasks.ErrNotFound
}

func (noProvider) CountTokens(context.Context, string, tasks.Request) (int, []byte, error) {
	return 200, []byte(`{"input_tokens":1}`), nil
}

// Each route of a provider's form asks for a token, in either header, and for the scope
// that its description names; takes the query parameters that stand there and no other;
// and answers what it refuses in the form's own words.
func TestTheProvidersFormsAreAsTheyAreDescribed(t *testing.T) {
	t.Parallel()
	s := serve(t, allForms)
	const all = "acme:jobs:read,jobs:write"
	for _, op := range described(t) {
		method, pattern, _ := strings.Cut(op, " ")
		if !ofProvider(pattern) {
			continue
		}
		item := openSpec(t).doc.Paths.Value(pattern)
		o := item.GetOperation(method)
		path := strings.ReplaceAll(pattern, "{id}", "x")
		for _, header := range [][]string{nil, {"X-Api-Key", all, "Authorization", "Bearer " + all}, {"Authorization", "Basic YTpi"}} {
			if r := s.call(method, path, "", nil, header...).want(t, 401); !strings.Contains(string(r.body), "as x-api-key or as Authorization: Bearer") {
				t.Errorf("%s with %q: %s", op, header, r.body)
			}
		}
		s.call(method, path, "", nil, "X-Api-Key", "bad").want(t, 401)
		if r := s.call(method, path, "", nil, "X-Api-Key", all); r.StatusCode == 401 {
			t.Errorf("%s: a token as x-api-key: %s", op, r.body)
		}
		scope := regexp.MustCompile("^(?:Any valid token|Scope `([a-z:]+)`)\\.").FindStringSubmatch(o.Description)
		if scope == nil {
			t.Errorf("%s: the description begins with no scope", op)
			continue
		}
		r := s.call(method, path, "nobody:", nil)
		if (r.StatusCode == 403) != (scope[1] != "") || !strings.Contains(r.Header.Get("WWW-Authenticate"), scope[1]) {
			t.Errorf("%s: without a scope: %d %q, described %q", op, r.StatusCode, r.Header.Get("WWW-Authenticate"), scope[0])
		}
		s.call(method, path+"?nosuch=1", all, nil).want(t, 400)
		for _, p := range append(item.Parameters[:len(item.Parameters):len(item.Parameters)], o.Parameters...) {
			if p.Value.In != "query" {
				continue
			}
			r := s.call(method, path+"?"+url.QueryEscape(p.Value.Name)+"=1", all, nil)
			if strings.Contains(string(r.body), "is unknown: this route takes") {
				t.Errorf("%s: the parameter %s is unknown: %s", op, p.Value.Name, r.body)
			}
		}
	}
}

// The header fields of ours that are described are those that a call is asked with.
func TestTheHeaderFieldsOfCallsAreDescribed(t *testing.T) {
	t.Parallel()
	s := serve(t, allForms)
	refusal := s.call("POST", "/openai/v1/chat/completions", writer, `{"model":"gpt-x"}`, "Sluice-Nosuch", "1").want(t, 400)
	known := regexp.MustCompile(`sluice-[a-zA-Z-]+`).FindAllString(strings.SplitAfter(string(refusal.body), "there are")[1], -1)
	slices.Sort(known)
	for _, path := range []string{"/anthropic/v1/messages", "/anthropic/v1/messages/batches", "/openai/v1/chat/completions", "/openai/v1/responses", "/openai/v1/embeddings", "/openai/v1/batches"} {
		var got []string
		for _, p := range openSpec(t).doc.Paths.Value(path).Post.Parameters {
			if strings.HasPrefix(p.Value.Name, "sluice-") {
				got = append(got, p.Value.Name)
			}
		}
		if slices.Sort(got); !slices.Equal(got, known) {
			t.Errorf("%s: described are %v, known %v", path, got, known)
		}
	}
}

func TestCodesAreThoseOfTheDescription(t *testing.T) {
	t.Parallel()
	described := map[string]bool{}
	for _, code := range openSpec(t).doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
		described[code.(string)] = true
	}
	for _, code := range api.Codes() {
		if !described[code] {
			t.Errorf("openapi.yaml lacks the code %q", code)
		}
		delete(described, code)
	}
	for code := range described {
		t.Errorf("openapi.yaml has a code %q that the API never answers", code)
	}
}

func TestTheDescriptionStatesTheLimits(t *testing.T) {
	t.Parallel()
	schemas := openSpec(t).doc.Components.Schemas
	members, metadata := schemas["SubmitMembers"].Value.Properties, schemas["Metadata"].Value
	source := readFile(t, "v1/submit.go")
	// A call's header fields say the same as a submit body's members, and have its limits.
	calls := readFile(t, "relay/sdk.go")
	for ours, theirs := range map[string]string{
		"maxModel": "maxModel", "maxFallbacks": "maxFallbacks", "maxMetadata": "maxPairs", "maxMetadataKey": "maxPairKey", "maxMetadataValue": "maxPairValue",
	} {
		if a, b := constant(source, ours), constant(calls, theirs); a == "" || a != b {
			t.Errorf("a submit body has %s %q, and a call's header %s %q", ours, a, theirs, b)
		}
	}
	// In words: with a default in the schema, generated clients ask for the member.
	absent := regexp.MustCompile(`absent is (\d+)`).FindStringSubmatch(members["max_tokens"].Value.Description)
	if absent == nil {
		t.Fatal("the description of max_tokens does not say what it is where it is absent")
	}
	tokens, err := strconv.ParseUint(absent[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]uint64{
		"defaultMaxTokens": tokens,
		"mostMaxTokens":    uint64(*members["max_tokens"].Value.Max),
		"maxModel":         *members["model"].Value.MaxLength,
		"maxFallbacks":     *members["fallback_models"].Value.MaxItems,
		"maxMetadata":      *metadata.MaxProps,
		"maxMetadataValue": *metadata.AdditionalProperties.Schema.Value.MaxLength,
		"maxURL":           *members["webhook_url"].Value.MaxLength,
		"maxCustomID":      *schemas["BatchLine"].Value.Properties["custom_id"].Value.MaxLength,
	} {
		if want := constant(source, name); fmt.Sprint(got) != want {
			t.Errorf("%s is %q, in openapi.yaml %d", name, want, got)
		}
	}
}

// constant is the number that a source gives a name; "" for none.
func constant(source, name string) string {
	m := regexp.MustCompile(`(?m)^\t` + name + `\s+= ([0-9_]+)`).FindStringSubmatch(source)
	if m == nil {
		return ""
	}
	return strings.ReplaceAll(m[1], "_", "")
}

// perRoute calls check with a request for each described route, its path filled in.
func perRoute(t *testing.T, job, batch string, check func(method, path, pattern string)) {
	for _, op := range operations(t) {
		method, pattern, _ := strings.Cut(op, " ")
		id := job
		if strings.HasPrefix(pattern, "/v1/batches") {
			id = batch
		}
		check(method, strings.NewReplacer("{id}", id, "{name}", "claude").Replace(pattern), pattern)
	}
}

func TestEveryRouteAsksForAToken(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) { c.Caps = room(t, caps.Config{FailedTokens: 10_000}) }) // each route is asked eight times without one
	job, batch := s.submit(), s.batch(hello)
	open := []string{"/healthz", "/readyz", "/openapi.yaml", "/docs"}
	perRoute(t, job, batch, func(method, path, pattern string) {
		if slices.Contains(open, pattern) {
			s.call(method, path, "", nil).want(t, 200)
			return
		}
		for name, h := range map[string][]string{
			"no header": nil, "empty": {""}, "basic": {"Basic YTpi"}, "no token": {"Bearer"}, "blank": {"Bearer  "},
			"invalid": {"Bearer x"}, "two": {"Bearer " + writer, "Bearer " + writer}, "other word": {"Token " + writer},
		} {
			req := s.request(t.Context(), method, path, "", nil)
			if h != nil {
				req.Header["Authorization"] = h
			}
			res, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != 401 || !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s %s with %s: got %d, WWW-Authenticate %q", method, path, name, res.StatusCode, res.Header.Get("WWW-Authenticate"))
			}
		}
		s.call(method, path, "nobody:", nil).want(t, map[bool]int{true: 200, false: 403}[pattern == "/v1/status"])
		if s.call(method, path+"?access_token="+writer, "", nil).StatusCode != 401 {
			t.Errorf("%s %s takes a token from its query", method, path)
		}
	})
	s.call("GET", "/v1/status", "keys-gone", nil).want(t, 503, "keys_unavailable")
	s.call("GET", "/v1/status", "", nil, "Authorization", "bEARER "+reader).want(t, 200)
}

// ofWebhooks reports whether a route is one of the webhook routes.
func ofWebhooks(pattern string) bool {
	for _, prefix := range []string{"/v1/webhook-endpoints", "/v1/deliveries", "/v1/signing-secret"} {
		if strings.HasPrefix(pattern, prefix) {
			return true
		}
	}
	return false
}

func TestEveryScopeIsAskedFor(t *testing.T) {
	t.Parallel()
	s := serve(t)
	job, batch := s.submit(), s.batch(hello)
	perRoute(t, job, batch, func(method, path, pattern string) {
		if !strings.HasPrefix(pattern, "/v1/") || pattern == "/v1/status" {
			return
		}
		needs := "jobs:read"
		switch {
		case strings.HasPrefix(pattern, "/v1/pools"), strings.HasPrefix(pattern, "/v1/tokens"), strings.HasPrefix(pattern, "/v1/tenants"), strings.HasPrefix(pattern, "/v1/abuse"), pattern == "/v1/audit":
			needs = "admin"
		case ofWebhooks(pattern):
			needs = "webhooks:write"
		case method != http.MethodGet:
			needs = "jobs:write"
		}
		var rest []string
		for _, scope := range []string{"jobs:read", "jobs:write", "webhooks:write", "monitor", "admin"} {
			if scope != needs {
				rest = append(rest, scope)
			}
		}
		r := s.call(method, path, "acme:"+strings.Join(rest, ","), nil).want(t, 403, "forbidden")
		if !strings.Contains(r.Header.Get("WWW-Authenticate"), `scope="`+needs+`"`) {
			t.Errorf("%s %s: WWW-Authenticate is %q", method, path, r.Header.Get("WWW-Authenticate"))
		}
	})
}

func TestAnotherTenantsObjectIsNotThere(t *testing.T) {
	t.Parallel()
	s := serve(t)
	job, batch := s.submit(), s.batch(hello)
	s.strangers(job, batch, writer, other)
	if j, err := s.world.Job(t.Context(), "acme", job); err != nil || j.Status != tasks.StatusQueued {
		t.Errorf("another tenant changed the job: %+v %v", j, err)
	}
}

// Where each user of a tenant has only what is its own, the job of another is as far away as
// another tenant's, at every route, and so is what was made while they shared all.
func TestAnotherUsersObjectIsNotThere(t *testing.T) {
	t.Parallel()
	s := serve(t)
	shared := s.submit()
	const ada, bob = "acme/ada:jobs:read,jobs:write", "acme/bob/ada:jobs:read,jobs:write,admin,monitor,content"
	job := s.call("POST", "/v1/jobs", ada, hello, "Idempotency-Key", "mine").want(t, 202).str(t, "id")
	batch := s.call("POST", "/v1/batches", ada, hello, "Content-Type", "application/x-ndjson").want(t, 202).str(t, "id")
	s.strangers(job, batch, ada, bob)
	s.strangers(job, batch, ada, "other/ada:jobs:read,jobs:write,admin")
	s.call("GET", "/v1/jobs/"+job, ada, nil).want(t, 200)
	s.call("GET", "/v1/batches/"+batch, ada, nil).want(t, 200)
	s.call("GET", "/v1/jobs/"+shared, ada, nil).want(t, 404, "not_found")
	s.call("GET", "/v1/jobs/"+job, reader, nil).want(t, 200) // a token of a time when they share
	for path, n := range map[string]int{"/v1/jobs": 2, "/v1/batches": 1} {
		for token, n := range map[string]int{ada: n, bob: 0} {
			var got struct{ Data []any }
			if err := json.Unmarshal(s.call("GET", path, token, nil).want(t, 200).body, &got); err != nil || len(got.Data) != n {
				t.Errorf("GET %s by %s lists %d, %v; want %d", path, token, len(got.Data), err, n)
			}
		}
	}
	if id := s.call("POST", "/v1/jobs", bob, hello, "Idempotency-Key", "mine").want(t, 202).str(t, "id"); id == job {
		t.Error("an Idempotency-Key that another user has used brings that user's job")
	}
	for _, token := range []string{ada, bob} {
		s.call("GET", "/v1/usage?tenant=other", "acme/ada:jobs:read", nil).want(t, 403, "forbidden")
		s.call("GET", "/v1/usage", token, nil).want(t, 200)
	}
}

// strangers asks every route with an id for one that is owner's, as somebody who has every scope
// and is another.
func (s *site) strangers(job, batch, owner, stranger string) {
	t := s.t.(*testing.T)
	t.Helper()
	perRoute(t, job, batch, func(method, path, pattern string) {
		if !strings.Contains(pattern, "{id}") || strings.HasPrefix(pattern, "/v1/tokens/") { // an operator revokes any tenant's
			return
		}
		if ofWebhooks(pattern) {
			// Their ids are asked for end to end, on the real record, in cmd/sluice.
			s.call(method, path, "other:webhooks:write", "{}").want(t, 404, "not_found")
			return
		}
		var body any
		if method == "PATCH" {
			body = "{}"
		}
		s.call(method, path, stranger, body).want(t, 404, "not_found")
		for _, id := range []string{"job_none", "batch_none", "x", "job_%00", "job_..%2f..", "job_" + strings.Repeat("a", 80)} {
			s.call(method, strings.NewReplacer(job, id, batch, id).Replace(path), owner, body).want(t, 404, "not_found")
		}
	})
	if r := s.call("GET", "/v1/jobs?batch="+batch, stranger, nil).want(t, 200); !bytes.Contains(r.body, []byte(`"data":[]`)) {
		t.Errorf("a stranger lists %s", r.body)
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/nothing", "/v1/jobs/", "/v2/jobs", "/v1/jobs/a/b/c", "/metrics", "/V1/jobs"} {
		s.call("GET", path, writer, nil).want(t, 404)
	}
	for path, allow := range map[string][]string{"/v1/jobs": {"GET", "POST"}, "/v1/jobs/job_1/events": {"GET"}, "/v1/status": {"GET"}, "/v1/jobs/job_1/cancel": {"POST"}, "/healthz": {"GET", "HEAD"}} {
		for _, method := range []string{"PUT", "PATCH", "TRACE"} {
			r := s.call(method, path, writer, nil).want(t, 405, "method_not_allowed")
			for _, m := range allow {
				if !strings.Contains(r.Header.Get("Allow"), m) {
					t.Errorf("%s %s: Allow is %q, want %s in it", method, path, r.Header.Get("Allow"), m)
				}
			}
		}
	}
}

func TestErrorsOfTheStore(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err    error
		status int
		code   string
	}{
		{tasks.ErrUnavailable, 503, "unavailable"},
		{fmt.Errorf("submit: %w", tasks.ErrUnavailable), 503, "unavailable"},
		{tasks.ErrFull, 503, "store_full"},
		{tasks.ErrBacklogFull, 429, "quota_exceeded"},
		{errors.New("READONLY secret-host:6379"), 500, "internal"},
	} {
		s := serve(t)
		job, batch := s.submit(), s.batch(hello)
		s.world.breakWith(row.err)
		for _, call := range [][3]string{
			{"POST", "/v1/jobs", hello}, {"GET", "/v1/jobs", ""}, {"GET", "/v1/jobs/" + job, ""},
			{"POST", "/v1/jobs/" + job + "/cancel", ""}, {"POST", "/v1/jobs/" + job + "/retry", ""}, {"DELETE", "/v1/jobs/" + job, ""},
			{"GET", "/v1/jobs/" + job + "/events", ""}, {"POST", "/v1/batches", hello}, {"GET", "/v1/batches/" + batch, ""},
			{"GET", "/v1/batches/" + batch + "/results", ""}, {"GET", "/v1/status", ""},
		} {
			if row.status == 429 && call[0] == "GET" {
				continue // no read is refused so
			}
			if row.status == 429 && !strings.HasSuffix(call[1], "s") {
				continue
			}
			var body any
			headers := []string{}
			if call[2] != "" {
				body = call[2]
				if call[1] == "/v1/batches" {
					headers = []string{"Content-Type", "application/x-ndjson"}
				}
			}
			r := s.call(call[0], call[1], writer, body, headers...).want(t, row.status, row.code)
			if row.status != 500 && r.Header.Get("Retry-After") == "" {
				t.Errorf("%s %s: %d without Retry-After", call[0], call[1], r.StatusCode)
			}
			if bytes.Contains(r.body, []byte("secret-host")) {
				t.Errorf("%s %s tells the cause: %s", call[0], call[1], r.body)
			}
		}
		if row.status == 500 && !strings.Contains(s.log.String(), "secret-host") {
			t.Error("the cause of a 500 is not in the log")
		}
		for id, g := range s.world.staged {
			t.Errorf("%v: batch %s is left staged with %d jobs", row.err, id, len(g))
		}
	}
}

func TestAPanicIsABare500(t *testing.T) {
	t.Parallel()
	s := serve(t)
	r := s.call("GET", "/v1/jobs", "panic", nil).want(t, 500, "internal")
	if bytes.Contains(r.body, []byte("secret")) || strings.Contains(s.log.String(), "a secret prompt") {
		t.Errorf("the panic's value is told: %s\n%s", r.body, s.log)
	}
	if !strings.Contains(s.log.String(), "level=ERROR msg=panic") {
		t.Errorf("the panic is not logged: %s", s.log)
	}
	s.call("GET", "/v1/jobs", reader, nil).want(t, 200)
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	s := serve(t)
	if got := s.call("GET", "/v1/jobs", reader, nil, "X-Request-Id", "my-request-1").Header.Get("X-Request-Id"); got != "my-request-1" {
		t.Errorf("a valid id became %q", got)
	}
	seen := map[string]bool{}
	for _, bad := range []string{"", "short", strings.Repeat("a", 65), "has space", "a<script>b", "ümlautid"} {
		got := s.call("GET", "/v1/jobs", reader, nil, "X-Request-Id", bad).Header.Get("X-Request-Id")
		if got == bad || seen[got] || !regexp.MustCompile(`^req_[0-9a-f]{32}$`).MatchString(got) {
			t.Errorf("the id %q became %q", bad, got)
		}
		seen[got] = true
	}
}

func TestTheLogAndTheMetricsTellNothing(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const secret = "canary"
	s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"canary","metadata":{"k":"canary"},"webhook_url":"https://canary.example/canary"}`).want(t, 202)
	s.call("POST", "/v1/jobs", writer, `{"model":"canary-model","prompt":"canary"}`).want(t, 404, "model_not_found")
	s.call("POST", "/v1/jobs", writer, `{"canary":"canary"`).want(t, 400)
	s.call("GET", "/v1/jobs?model=canary", reader, nil).want(t, 200)
	s.call("GET", "/v1/jobs?x=canary", reader, nil).want(t, 400)
	s.call("GET", "/v1/jobs/job_canary", reader, nil).want(t, 404)
	s.call("GET", "/canary", reader, nil).want(t, 404)
	s.call("CANARY", "/v1/jobs", reader, nil).want(t, 405)
	s.call("GET", "/v1/jobs", "canary", nil).want(t, 401)
	if strings.Contains(strings.ToLower(s.log.String()), secret) {
		t.Errorf("the log holds the canary:\n%s", s.log)
	}
	if !strings.Contains(s.log.String(), "route=/v1/jobs/:id method=GET status=404") || !strings.Contains(s.log.String(), "code=not_found") || !strings.Contains(s.log.String(), "tenant=acme") {
		t.Errorf("the access log lacks lines:\n%s", s.log)
	}
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
		if strings.Contains(strings.ToLower(f.String()), secret) {
			t.Errorf("a metric holds the canary: %s", f)
		}
		if !strings.HasPrefix(f.GetName(), "sluice_") {
			t.Errorf("a metric is named %s", f.GetName())
		}
	}
	for _, name := range []string{"sluice_http_requests_total", "sluice_http_request_duration_seconds", "sluice_jobs_accepted_total", "sluice_jobs_rejected_total"} {
		if !names[name] {
			t.Errorf("there is no metric %s", name)
		}
	}
}

func TestPools(t *testing.T) {
	t.Parallel()
	s := serve(t)
	v := s.call("GET", "/v1/status", "acme:", nil).want(t, 200).json(t)
	if v["status"] != "ok" || len(v["pools"].([]any)) != 2 {
		t.Errorf("status is %v", v)
	}
	const wrong = "map[calls_failed:map[ramp_limited:2 rate_limited:3 timeout:1] jobs_diverted:map[] jobs_failed:map[upstream_rejected:4] refused:5]"
	if got := fmt.Sprint(v["pools"].([]any)[1].(map[string]any)["last_hour"]); got != wrong {
		t.Errorf("what went wrong is %s, want %s", got, wrong)
	}
	r := s.call("POST", "/v1/pools/claude/pause", admin, `{"reason":"key rotation"}`).want(t, 200)
	if v := r.json(t); v["state"] != "paused" || v["reason"] != "key rotation" || v["paused_by"] != "operator" || v["since"] == nil {
		t.Errorf("paused: %s", r.body)
	}
	if v := s.call("GET", "/v1/status", reader, nil).want(t, 200).json(t); v["status"] != "degraded" {
		t.Errorf("status with one pool of two paused: %v", v["status"])
	}
	s.call("POST", "/v1/pools/gpt/pause", admin, nil).want(t, 200)
	if v := s.call("GET", "/v1/status", reader, nil).want(t, 200).json(t); v["status"] != "paused" {
		t.Errorf("status with all pools paused: %v", v["status"])
	}
	s.submit() // submits go on
	if v := s.call("POST", "/v1/pools/claude/resume", admin, nil).want(t, 200).json(t); v["state"] != "open" {
		t.Errorf("resumed: %v", v)
	}
	s.call("GET", "/v1/pools", admin, nil).want(t, 200)
	r = s.call("GET", "/v1/pools/claude/audit", admin, nil).want(t, 200)
	if want := `{"data":[{"at":"2030-03-17T17:47:40.000Z","action":"resume","by":"bob","reason":null,"until":null},{"at":"2030-03-17T17:46:40.000Z","action":"pause","by":"ann","reason":"key rotation","until":"2030-03-17T17:47:40.000Z"}]}`; strings.TrimSpace(string(r.body)) != want {
		t.Errorf("audit: %s; want %s", r.body, want)
	}
	if r := s.call("GET", "/v1/pools/claude/audit?limit=1", admin, nil).want(t, 200); strings.Contains(string(r.body), "ann") {
		t.Errorf("audit of one: %s", r.body)
	}
	s.call("GET", "/v1/pools/claude/audit?limit=0", admin, nil).want(t, 400)
	s.call("GET", "/v1/pools/claude/audit", writer, nil).want(t, 403, "forbidden")
	s.call("GET", "/v1/pools/none/audit", admin, nil).want(t, 404, "not_found")
	if r := s.call("GET", "/v1/pools/claude/tenants", admin, nil).want(t, 200); string(r.body) != `{"data":[`+
		`{"tenant":"acme","weight":3,"seconds":{"minute":42.500,"hour":2000.000},"share":0.7500,"queued":12,"running":2,"lag":-1.250},`+
		`{"tenant":"zoe","weight":1,"seconds":{"minute":0.000,"hour":0.000},"share":0.0000,"queued":0,"running":0,"lag":0.000}],`+
		`"jain":{"minute":0.9877,"hour":null},"others":{"tenants":2,"seconds":{"minute":0.000,"hour":3.000}}}`+"\n" {
		t.Errorf("the tenants of a pool: %s", r.body)
	}
	s.call("GET", "/v1/pools/claude/tenants", writer, nil).want(t, 403, "forbidden")
	if r := s.call("GET", "/v1/pools/claude/accounts", admin, nil).want(t, 200); string(r.body) != `{"data":[`+
		`{"name":"eu","provider":"anthropic-eu","state":"paused","reason":"unauthorized","detail":"d","since":null,"expected_resume_at":null,"weight":2,"shared_allowance":"org","organization":null,"shares_allowance_of":null,"allowance":{},"success_rate":0.6667,"wait_seconds":null,"egress":"http://proxy-1:3128"},`+
		`{"name":"us","provider":"anthropic","state":"open","reason":null,"detail":null,"since":null,"expected_resume_at":null,"weight":1,"shared_allowance":null,"organization":null,"shares_allowance_of":null,"allowance":{"requests":{"limit":60,"used":0.2500}},"success_rate":null,"wait_seconds":1.500,"egress":null}]}`+"\n" {
		t.Errorf("accounts: %s", r.body)
	}
	s.call("GET", "/v1/pools/claude/accounts", writer, nil).want(t, 403, "forbidden")
	s.call("GET", "/v1/pools/none/accounts", admin, nil).want(t, 404, "not_found")
	s.call("GET", "/v1/pools/none/tenants", admin, nil).want(t, 404, "not_found")
	s.call("POST", "/v1/pools/none/pause", admin, nil).want(t, 404, "not_found")
	s.call("POST", "/v1/pools/none/resume", admin, nil).want(t, 404, "not_found")
	for _, bad := range []string{`{"reason":1}`, `{"why":"x"}`, `[]`, `{"reason":"a"}x`, `{"reason":"a","reason":"b"}`, `{`, `{"reason":"` + strings.Repeat("a", 501) + `"}`} {
		s.call("POST", "/v1/pools/claude/pause", admin, bad).want(t, 400)
	}
	s.call("POST", "/v1/pools/claude/pause", admin, strings.Repeat(" ", 20<<10)).want(t, 413)
	s = serve(t, func(c *api.Config) { c.PoolControl = nil })
	s.call("POST", "/v1/pools/claude/pause", admin, nil).want(t, 404)
	s.call("POST", "/v1/pools/claude/resume", admin, nil).want(t, 404)
	s.call("GET", "/v1/pools/claude/audit", admin, nil).want(t, 404)
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := api.New(api.Config{Extra: map[string]http.Handler{"/v1/x": http.NotFoundHandler()}})
	if err == nil {
		t.Fatal("New accepted an empty Config")
	}
	for _, name := range []string{"Jobs", "Batches", "Notices", "Pools", "Verifier", "NewID", "PublicURL", "Extra"} {
		if !strings.Contains(err.Error(), "Config."+name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
}

func TestExtraHandlers(t *testing.T) {
	t.Parallel()
	page := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(name)) })
	}
	s := serve(t, func(c *api.Config) {
		c.Extra = map[string]http.Handler{"/": page("console"), "/console": page("console"), "/monitoring": page("monitoring"), "/other/": page("other")}
		c.Lost = page("lost")
	})
	get := func(path string, accept ...string) string {
		req := s.request(t.Context(), "GET", path, "", nil)
		req.Header["Accept"] = accept
		res, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b bytes.Buffer
		_, _ = b.ReadFrom(res.Body)
		return b.String()
	}
	for path, want := range map[string]string{
		"/": "console", "/console/x.js": "console", "/monitoring": "monitoring", "/monitoring/a": "monitoring",
		"/other/v1/models": "other",
	} {
		if got := get(path); got != want {
			t.Errorf("%s came from %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"/v1/nothing", "/nothing", "/v2/jobs", "/v1x", "/monitoringX", "/healthz/x"} {
		s.call("GET", path, "", nil).want(t, 404, "route_not_found")
	}
	for path, page := range map[string]bool{"/nothing": true, "/monitoringX": true, "/v1/nothing": false, "/openai/v1/nothing": false, "/anthropic/nothing": false} {
		for _, asks := range []string{"text/html,*/*;q=0.8", "application/json"} {
			if got := get(path, asks); (got == "lost") != (page && asks != "application/json") {
				t.Errorf("%s for %s came from %q", path, asks, got)
			}
		}
	}
	if got := get("/healthz"); !strings.Contains(got, "ok") {
		t.Errorf("/healthz: %s", got)
	}
}

// A caller who gets a 503 finds in README what it means.
func TestREADMENamesEach503(t *testing.T) {
	t.Parallel()
	text := readFile(t, "../README.md")
	for _, kind := range fault.Kinds() {
		if kind.Status == 503 && !strings.Contains(text, "`"+kind.Code+"`") {
			t.Errorf("README does not name %s", kind.Code)
		}
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	down := errors.New("dial 10.0.0.9: refused")
	var redis error
	s := serve(t, func(c *api.Config) {
		c.Operations = api.OperationsConfig{
			Checks: []api.Check{
				{Name: "redis", Check: func(context.Context) error { return redis }},
				{Name: "worker", Check: func(context.Context) error { return nil }},
			},
			Notices: func() []string { return []string{"jobs do not survive a restart"} },
		}
	})
	r := s.call("GET", "/readyz", "", nil).want(t, 200)
	if string(r.body) != `{"status":"ready","parts":[{"name":"redis","status":"ok"},{"name":"worker","status":"ok"}],"notices":["jobs do not survive a restart"]}`+"\n" {
		t.Errorf("ready: %s", r.body)
	}
	redis = down
	r = s.call("GET", "/readyz", "", nil).want(t, 503)
	if !bytes.Contains(r.body, []byte(`{"name":"redis","status":"down"}`)) || bytes.Contains(r.body, []byte("10.0.0.9")) {
		t.Errorf("down: %s", r.body)
	}
	s.call("HEAD", "/readyz", "", nil).want(t, 503)
	s.call("GET", "/healthz", "", nil).want(t, 200)
}

func TestLinksComeFromTheConfigurationOnly(t *testing.T) {
	t.Parallel()
	// Links must come from Config.PublicURL: no handler may look at what the caller calls us.
	for _, pattern := range []string{"*.go", "v1/*.go", "wire/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, word := range []string{".Host)", "r.Host", "X-Forwarded", "RealIP"} {
				if strings.Contains(readFile(t, name), word) {
					t.Errorf("%s uses %s", name, word)
				}
			}
		}
	}
	s := serve(t)
	req := s.request(t.Context(), "POST", "/v1/jobs", writer, hello, "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "gopher", "Forwarded", "host=evil.example")
	req.Host = "evil.example"
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(res.Body)
	if strings.Contains(b.String(), "evil") || strings.Contains(res.Header.Get("Location"), "evil") {
		t.Errorf("a link came from the caller's headers: %s %s", res.Header.Get("Location"), b.String())
	}
}
