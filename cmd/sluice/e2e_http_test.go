package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicehq/sluice/api/auth"
)

// TestTheAPIFromOutside asks one running system everything that does not
// disturb the others.
func TestTheAPIFromOutside(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil, "GORACE=atexit_sleep_ms=0", "SLUICE_WEBHOOKS__ALLOW_HTTP=true", "SLUICE_WEBHOOKS__ALLOW_PRIVATE=true")
	t.Run("group", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *system){
			"errors": testErrors, "submit bodies": testBodies, "tokens": testTokens, "tenants": testTenants, "a job": testJob,
			"forwarding": testForwarding, "idempotency": testIdempotency, "waits": testWaits, "lists": testLists,
			"moves": testMoves, "times": testTimes, "priority": testPriority, "events": testEvents, "batches": testBatches,
			"batch faults": testBatchFaults, "batch cancel": testBatchCancel, "pools": testPools, "quota": testQuota,
			"operations": testOperations, "console": testConsole, "webhooks": testWebhooks,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
	})
}

func testErrors(t *testing.T, s *system) {
	c, anon := s.as(t, "errors"), caller{s, t, ""}
	admin := s.as(t, "errors", auth.ScopeAdmin)
	big := `{"model":"claude-x","prompt":"` + strings.Repeat("x", 33<<20) + `"}`
	const job = `{"model":"claude-x","prompt":"hi"}`
	for name, x := range map[string]struct {
		as           caller
		method, path string
		body         string
		headers      []string
		status       int
		code         string
	}{
		"no route":             {c, "GET", "/v1/nothing", "", nil, 404, "route_not_found"},
		"no route, no token":   {anon, "GET", "/v1/nothing", "", nil, 404, "route_not_found"},
		"the bare prefix":      {c, "GET", "/v1", "", nil, 404, "route_not_found"},
		"no page":              {anon, "GET", "/nothing", "", nil, 404, "route_not_found"},
		"another version":      {anon, "POST", "/v2/jobs", job, nil, 404, "route_not_found"},
		"method":               {c, "PUT", "/v1/jobs", job, nil, 405, "method_not_allowed"},
		"method of a job":      {c, "PUT", "/v1/jobs/job_x", "{}", nil, 405, "method_not_allowed"},
		"method of health":     {anon, "POST", "/healthz", "", nil, 405, "method_not_allowed"},
		"method of the spec":   {anon, "DELETE", "/openapi.yaml", "", nil, 405, "method_not_allowed"},
		"no token":             {anon, "POST", "/v1/jobs", job, nil, 401, "unauthorized"},
		"no token, status":     {anon, "GET", "/v1/status", "", nil, 401, "unauthorized"},
		"basic":                {anon, "GET", "/v1/jobs", "", []string{"Authorization", "Basic dTpw"}, 401, "unauthorized"},
		"no pool":              {c, "POST", "/v1/jobs", prompt("llama-9", "hi"), nil, 404, "model_not_found"},
		"fallback without":     {c, "POST", "/v1/jobs", `{"model":"claude-x","prompt":"p","fallback_models":["llama-9"]}`, nil, 404, "model_not_found"},
		"media type":           {c, "POST", "/v1/jobs", job, []string{"Content-Type", "text/plain"}, 415, "unsupported_media_type"},
		"encoding":             {c, "POST", "/v1/jobs", job, []string{"Content-Encoding", "br"}, 415, "unsupported_media_type"},
		"too large":            {c, "POST", "/v1/jobs", big, nil, 413, "body_too_large"},
		"not gzip":             {c, "POST", "/v1/jobs", job, []string{"Content-Encoding", "gzip"}, 400, "invalid_request"},
		"deadline in the past": {c, "POST", "/v1/jobs", `{"model":"claude-x","prompt":"p","deadline":"2020-01-01T00:00:00Z"}`, nil, 422, "impossible_time"},
		"webhook of a scheme":  {c, "POST", "/v1/jobs", `{"model":"claude-x","prompt":"p","webhook_url":"ftp://example.com/"}`, nil, 422, "webhook_url_refused"},
		"no such job":          {c, "GET", "/v1/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "", nil, 404, "not_found"},
		"no such events":       {c, "GET", "/v1/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV/events", "", nil, 404, "not_found"},
		"no such batch":        {c, "GET", "/v1/batches/batch_01ARZ3NDEKTSV4RRFFQ69G5FAV", "", nil, 404, "not_found"},
		"an odd id":            {c, "GET", "/v1/jobs/%2e%2e%2fetc", "", nil, 404, "not_found"},
		"limit 0":              {c, "GET", "/v1/jobs?limit=0", "", nil, 400, "invalid_request"},
		"limit 101":            {c, "GET", "/v1/jobs?limit=101", "", nil, 400, "invalid_request"},
		"wait 61":              {c, "GET", "/v1/jobs/job_x?wait=61", "", nil, 400, "invalid_request"},
		"an unknown status":    {c, "GET", "/v1/jobs?status=done", "", nil, 400, "invalid_request"},
		"admin's route":        {c, "GET", "/v1/pools", "", nil, 403, "forbidden"},
		"admin's pause":        {c, "POST", "/v1/pools/claude/pause", "", nil, 403, "forbidden"},
		"no such pool":         {admin, "POST", "/v1/pools/none/pause", `{"reason":"x"}`, nil, 404, "not_found"},
		"pause, unknown":       {admin, "POST", "/v1/pools/claude/pause", `{"why":"x"}`, nil, 400, "invalid_request"},
		"admin cannot read":    {admin, "GET", "/v1/jobs", "", nil, 403, "forbidden"},
		"admin cannot write":   {admin, "POST", "/v1/jobs", job, nil, 403, "forbidden"},
		"key too long":         {c, "POST", "/v1/jobs", job, []string{"Idempotency-Key", strings.Repeat("k", 300)}, 400, "invalid_request"},
	} {
		r := x.as.do(x.method, x.path, x.body, x.headers...)
		if r.status != x.status || r.str("code") != x.code {
			t.Errorf("%s: %d %s; want %d %s: %.300s", name, r.status, r.str("code"), x.status, x.code, r.body)
			continue
		}
		r.isProblem(t)
		if x.status == 401 && !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: WWW-Authenticate %q", name, r.header.Get("WWW-Authenticate"))
		}
		if x.status == 405 && r.header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", name)
		}
	}
}

func testBodies(t *testing.T, s *system) {
	c := s.as(t, "bodies")
	pairs := func(n int) string {
		var p []string
		for i := range n {
			p = append(p, fmt.Sprintf(`"k%d":"v"`, i))
		}
		return "{" + strings.Join(p, ",") + "}"
	}
	for body, want := range map[string]int{
		``: 400, `{`: 400, `[]`: 400, `null`: 400, `"x"`: 400, `{}`: 400,
		`{"model":"claude-x"}`:                                                                       400,
		`{"prompt":"p"}`:                                                                             400,
		`{"model":"claude-x","prompt":""}`:                                                           400,
		`{"model":"claude-x","prompt":1}`:                                                            400,
		`{"model":"claude-x","prompt":"p","prompt":"q"}`:                                             400,
		`{"model":"claude-x","prompt":"p","colour":1}`:                                               400,
		`{"model":"claude-x","Prompt":"p"}`:                                                          400,
		`{"model":"claude-x","prompt":"p"}{}`:                                                        400,
		`{"model":"claude-x","prompt":"p"} x`:                                                        400,
		`{"model":"claude-x","prompt":"p","messages":[{"role":"user","content":"x"}]}`:               400,
		`{"model":"claude-x","prompt":"p","system":"s"}`:                                             400,
		`{"model":"claude-x","messages":[]}`:                                                         400,
		`{"model":"claude-x","prompt":"p","max_tokens":0}`:                                           400,
		`{"model":"claude-x","prompt":"p","max_tokens":"5"}`:                                         400,
		`{"model":"claude-x","prompt":"p","max_tokens":1.5}`:                                         400,
		`{"model":"claude-x","prompt":"p","priority":"urgent"}`:                                      400,
		`{"model":"claude-x","prompt":"p","deadline":"tomorrow"}`:                                    400,
		`{"model":"claude-x","prompt":"p","not_before":"2020-13-01T00:00:00Z"}`:                      400,
		`{"model":"claude-x","prompt":"p","metadata":{"a":1}}`:                                       400,
		`{"model":"claude-x","prompt":"p","metadata":` + pairs(17) + `}`:                             400,
		`{"model":"claude-x","prompt":"p","metadata":{"a":"1","a":"2"}}`:                             400,
		`{"model":"claude-x","prompt":"p","custom_id":"x"}`:                                          400,
		`{"model":"claude-x","prompt":"p","fallback_models":"claude-y"}`:                             400,
		"{\"model\":\"claude-x\",\"prompt\":\"\xff\"}":                                               400,
		`{"model":"claude-x","prompt":"p","metadata":` + pairs(16) + `}`:                             202,
		`{"model":"claude-x","prompt":"p","fallback_models":["claude-y","gpt-x"]}`:                   202,
		`{"model":"claude-x","prompt":"p","not_before":"2020-01-01T00:00:00Z"}`:                      202,
		`{"model":"claude-x","prompt":"p","not_before":null,"deadline":null}`:                        202,
		`{"model":"claude-x","system":"s","messages":[{"role":"user","content":"x"}]}`:               202,
		`{"request":{"model":"claude-x","max_tokens":5,"messages":[{"role":"user","content":"x"}]}}`: 202,
		"  " + `{"model":"gpt-x","prompt":"p","max_tokens":1,"priority":"high"}` + "\r\n":            202,
	} {
		if r := c.do("POST", "/v1/jobs", body); r.status != want {
			t.Errorf("%.200q: %d; want %d: %s", body, r.status, want, r.body)
		} else if want == 400 {
			r.isProblem(t)
		}
	}
}

func testTokens(t *testing.T, s *system) {
	now := time.Now()
	good := jwt.MapClaims{
		"iss": "sluice", "aud": "sluice", "sub": "tester", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(), "jti": "1",
		"tenant": "tokens", "scope": "jobs:read jobs:write",
	}
	sign := func(change func(jwt.MapClaims), typ any, key string) string {
		claims := maps.Clone(good)
		if change != nil {
			change(claims)
		}
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
		if typ == nil {
			delete(token.Header, "typ")
		} else {
			token.Header["typ"] = typ
		}
		raw, err := token.SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	set := func(name string, v any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[name] = v } }
	unsigned := func(alg string) string {
		h, _ := json.Marshal(map[string]string{"alg": alg, "typ": "JWT"})
		c, _ := json.Marshal(good)
		return base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c) + "."
	}
	valid := sign(nil, "JWT", secret)
	refused := map[string]string{
		"other secret": sign(nil, "JWT", strings.Repeat("o", 40)), "no typ": sign(nil, nil, secret), "other typ": sign(nil, "secevent+jwt", secret),
		"other issuer": sign(set("iss", "evil"), "JWT", secret), "other audience": sign(set("aud", "evil"), "JWT", secret),
		"expired":         sign(func(c jwt.MapClaims) { c["iat"], c["exp"] = now.Add(-2*time.Hour).Unix(), now.Add(-time.Hour).Unix() }, "JWT", secret),
		"lives too long":  sign(set("exp", now.Add(24*time.Hour+time.Minute).Unix()), "JWT", secret),
		"from the future": sign(func(c jwt.MapClaims) { c["iat"], c["exp"] = now.Add(time.Hour).Unix(), now.Add(2*time.Hour).Unix() }, "JWT", secret),
		"not yet":         sign(set("nbf", now.Add(time.Hour).Unix()), "JWT", secret),
		"empty tenant":    sign(set("tenant", ""), "JWT", secret),
		"empty scope":     sign(set("scope", ""), "JWT", secret),
		"scope list":      sign(set("scope", []string{"jobs:read"}), "JWT", secret),
		"alg none":        unsigned("none"), "alg None": unsigned("None"), "no signature": unsigned("HS256"),
		"not a token": "x", "two parts": valid[:strings.LastIndexByte(valid, '.')], "cut": valid[:len(valid)-2],
	}
	for name := range good {
		refused["without "+name] = sign(func(c jwt.MapClaims) { delete(c, name) }, "JWT", secret)
	}
	for name, raw := range refused {
		if r := (caller{s, t, raw}).do("GET", "/v1/jobs", ""); r.status != 401 {
			t.Errorf("%s: %d; want 401: %s", name, r.status, r.body)
		} else {
			r.isProblem(t)
			if bytes.Contains(r.body, []byte(raw)) {
				t.Errorf("%s: the answer repeats the token", name)
			}
		}
	}
	accepted := map[string]string{
		"valid": valid, "at+jwt": sign(nil, "at+jwt", secret), "a day": sign(set("exp", now.Add(24*time.Hour).Unix()), "JWT", secret),
		"audiences": sign(set("aud", []string{"other", "sluice"}), "JWT", secret),
	}
	for name, raw := range accepted {
		if r := (caller{s, t, raw}).do("GET", "/v1/jobs", ""); r.status != 200 {
			t.Errorf("%s: %d; want 200: %s", name, r.status, r.body)
		}
	}
	// Each scope opens its own routes, and every token the status.
	for scope, opens := range map[string][]string{
		auth.ScopeJobsRead: {"GET /v1/jobs"}, auth.ScopeJobsWrite: {"POST /v1/jobs"}, auth.ScopeMonitor: {},
		auth.ScopeAdmin: {"GET /v1/pools"}, auth.ScopeWebhooksWrite: {},
	} {
		c := s.as(t, "scopes", scope)
		for _, route := range []string{"GET /v1/jobs", "POST /v1/jobs", "GET /v1/pools"} {
			method, path, _ := strings.Cut(route, " ")
			r := c.do(method, path, "")
			if open := slices.Contains(opens, route); (r.status == 403) == open {
				t.Errorf("%s on %s: %d; open %v", scope, route, r.status, open)
			}
		}
		c.do("GET", "/v1/status", "").want(t, 200)
	}
}

func testTenants(t *testing.T, s *system) {
	owner, stranger := s.as(t, "owner"), s.as(t, "stranger")
	id := owner.submit(`{"model":"halted-x","prompt":"p","not_before":"2099-01-01T00:00:00Z"}`)
	batch := owner.do("POST", "/v1/batches", `{"jobs":[{"model":"claude-x","prompt":"p"}]}`).want(t, 202).str("id")
	for _, route := range []string{
		"GET /v1/jobs/" + id, "GET /v1/jobs/" + id + "?wait=1", "GET /v1/jobs/" + id + "/events", "POST /v1/jobs/" + id + "/cancel", "POST /v1/jobs/" + id + "/retry",
		"DELETE /v1/jobs/" + id, "GET /v1/batches/" + batch, "GET /v1/batches/" + batch + "/results", "POST /v1/batches/" + batch + "/cancel",
	} {
		method, path, _ := strings.Cut(route, " ")
		if r := stranger.do(method, path, ""); r.status != 404 || r.str("code") != "not_found" {
			t.Errorf("%s of a stranger: %d %s; want 404", route, r.status, r.body)
		}
	}
	if r := stranger.do("GET", "/v1/jobs", "").want(t, 200); len(r.get("data").([]any)) != 0 {
		t.Errorf("a stranger's list: %s", r.body)
	}
	if r := stranger.do("GET", "/v1/jobs?batch="+batch, ""); r.status == 200 && len(r.get("data").([]any)) != 0 {
		t.Errorf("a stranger's list of a batch: %s", r.body)
	}
	if got := owner.do("GET", "/v1/jobs/"+id, "").want(t, 200).str("status"); got != "scheduled" {
		t.Errorf("the owner's job is %s", got)
	}
	owner.do("POST", "/v1/jobs/"+id+"/cancel", "").want(t, 200)
}

func testQuota(t *testing.T, s *system) {
	c := s.as(t, "small")
	for range 2 {
		if r := c.do("POST", "/v1/jobs", prompt("claude-x", "hi")).want(t, 202); r.header.Get("RateLimit") == "" || r.header.Get("RateLimit-Policy") == "" {
			t.Errorf("headers %v", r.header)
		}
	}
	r := c.do("POST", "/v1/jobs", prompt("claude-x", "hi")).want(t, 429)
	for _, name := range []string{"Retry-After", "RateLimit", "RateLimit-Policy"} {
		if r.header.Get(name) == "" {
			t.Errorf("429 without %s", name)
		}
	}
}

func testOperations(t *testing.T, s *system) {
	anon := caller{s, t, ""}
	for _, base := range []string{s.url, "http://" + s.api.ops(), "http://" + s.worker.ops()} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if r := anon.do("GET", base+path, ""); r.status != 200 {
				t.Errorf("%s%s: %d %s", base, path, r.status, r.body)
			}
		}
		r := anon.do("GET", base+"/metrics", "")
		if own := base == s.url; own == (r.status == 200) {
			t.Errorf("%s/metrics: %d", base, r.status)
		} else if !own && !bytes.Contains(r.body, []byte("\nsluice_")) {
			t.Errorf("%s/metrics has none of ours", base)
		}
	}
	if r := anon.do("GET", "/openapi.yaml", "").want(t, 200); !bytes.Contains(r.body, []byte("openapi: 3")) {
		t.Errorf("openapi.yaml: %.100s", r.body)
	}
	anon.do("GET", "/docs", "").want(t, 200)
}

func testConsole(t *testing.T, s *system) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	do := func(method, path string, form url.Values) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res, string(b)
	}
	for _, path := range []string{"/", "/monitoring"} {
		if res, _ := do("GET", path, nil); res.StatusCode/100 != 3 || !strings.Contains(res.Header.Get("Location"), "/login") {
			t.Errorf("%s without a session: %d %s", path, res.StatusCode, res.Header.Get("Location"))
		}
	}
	if res, _ := do("GET", "/monitoring/api/queues", nil); res.StatusCode == 200 {
		t.Error("asynqmon's data without a session")
	}
	if res, _ := do("POST", "/login", url.Values{"token": {"nonsense"}}); res.StatusCode != 401 {
		t.Errorf("sign-in with nonsense: %d", res.StatusCode)
	}
	if res, _ := do("POST", "/login", url.Values{"token": {token(t, "console", auth.ScopeJobsWrite)}}); res.StatusCode != 403 {
		t.Errorf("sign-in without a scope: %d", res.StatusCode)
	}
	res, _ := do("POST", "/login", url.Values{"token": {token(t, "console", auth.ScopeMonitor)}})
	if res.StatusCode != 303 || len(res.Cookies()) != 1 || !res.Cookies()[0].HttpOnly {
		t.Fatalf("sign-in: %d %v", res.StatusCode, res.Cookies())
	}
	for _, path := range []string{"/", "/monitoring", "/monitoring/api/queues"} {
		if res, body := do("GET", path, nil); res.StatusCode != 200 && res.StatusCode/100 != 3 {
			t.Errorf("%s: %d %.200s", path, res.StatusCode, body)
		}
	}
	if res, _ := do("POST", "/monitoring/api/queues/claude:pause", nil); res.StatusCode != 405 {
		t.Errorf("a write with scope monitor: %d", res.StatusCode)
	}
}

// together runs n at once.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
