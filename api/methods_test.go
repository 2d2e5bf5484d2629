package api_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
)

// What stands before an API asks with OPTIONS and HEAD whether it is there: HAProxy's
// own check is OPTIONS, browsers ask so before a call, and link checkers use HEAD.
func TestEveryRouteAnswersOptionsAndHead(t *testing.T) {
	t.Parallel()
	s := serve(t)
	job, batch := s.submit(), s.batch(hello)
	allowed := map[string][]string{}
	for _, op := range operations(t) {
		method, pattern, _ := strings.Cut(op, " ")
		allowed[pattern] = append(allowed[pattern], method)
	}
	perRoute(t, job, batch, func(method, path, pattern string) {
		r := s.call("OPTIONS", path, "", nil).want(t, 204)
		want := append([]string{"OPTIONS"}, allowed[pattern]...)
		if slices.Contains(want, "GET") {
			want = append(want, "HEAD")
		}
		slices.Sort(want)
		got := strings.Split(r.Header.Get("Allow"), ", ")
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("OPTIONS %s: Allow is %v, want %v", pattern, got, want)
		}
		if method != "GET" {
			return
		}
		const all = "acme:jobs:read,jobs:write,webhooks:write,admin,monitor"
		head := s.call("HEAD", path, all, nil)
		if len(head.body) > 0 {
			t.Errorf("HEAD %s: has a body", pattern)
		}
		if strings.HasSuffix(pattern, "/events") { // a GET would stay
			head.want(t, 200)
			return
		}
		get := s.call("GET", path, all, nil)
		if head.StatusCode != get.StatusCode || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") || head.Header.Get("ETag") != get.Header.Get("ETag") {
			t.Errorf("HEAD %s: %d %v, GET: %d %v", pattern, head.StatusCode, head.Header, get.StatusCode, get.Header)
		}
	})
	s.call("OPTIONS", "/v1/nothing", "", nil).want(t, 404)
	if r := s.call("HEAD", "/v1/jobs/"+job, "", nil); r.StatusCode != 401 {
		t.Errorf("HEAD without a token: %d", r.StatusCode)
	}
}

// The providers' own forms answer as ours does, and HEAD is no way past a token.
func TestEveryRouteOfTheProvidersFormsAnswersOptionsAndHead(t *testing.T) {
	t.Parallel()
	s := serve(t, allForms)
	allowed := map[string][]string{}
	for _, op := range s.api.Routes() {
		method, path, _ := strings.Cut(op, " ")
		if ofProvider(path) {
			allowed[path] = append(allowed[path], method)
		}
	}
	if len(allowed) < 9 {
		t.Fatalf("routes %v", allowed)
	}
	for pattern, methods := range allowed {
		want := append([]string{"OPTIONS"}, methods...)
		if slices.Contains(want, "GET") {
			want = append(want, "HEAD")
		}
		slices.Sort(want)
		path := strings.ReplaceAll(pattern, "{id}", "x")
		got := strings.Split(s.call("OPTIONS", path, "", nil).want(t, 204).Header.Get("Allow"), ", ")
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("OPTIONS %s: Allow is %v, want %v", pattern, got, want)
		}
		if r := s.call("HEAD", path, "", nil); r.StatusCode != 401 && r.StatusCode != 405 || (r.StatusCode == 401) != slices.Contains(want, "HEAD") {
			t.Errorf("HEAD %s without a token: %d", pattern, r.StatusCode)
		}
	}
	for _, path := range []string{"/openai/v1/models", "/anthropic/v1/messages/batches"} {
		var kinds []string
		for _, method := range []string{"GET", "HEAD"} {
			res, err := s.client.Do(s.request(t.Context(), method, path, reader, nil))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != 200 || (len(body) == 0) != (method == "HEAD") {
				t.Errorf("%s %s: %s, %v, %s", method, path, res.Status, err, body)
			}
			kinds = append(kinds, res.Header.Get("Content-Type"))
		}
		if kinds[0] != kinds[1] {
			t.Errorf("%s: GET is %s, HEAD %s", path, kinds[0], kinds[1])
		}
	}
}

// The listener of metrics and health answers checks in the same way.
func TestHealthAnswersOptions(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(api.Operations(api.OperationsConfig{}))
	defer server.Close()
	for _, path := range []string{"/healthz", "/readyz"} {
		for method, want := range map[string]int{"OPTIONS": 204, "HEAD": 200, "GET": 200, "POST": 405} {
			req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != want || want != 200 && res.Header.Get("Allow") != "OPTIONS, GET, HEAD" {
				t.Errorf("%s %s: %s, Allow %q", method, path, res.Status, res.Header.Get("Allow"))
			}
		}
	}
}
