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
