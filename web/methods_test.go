package web

import (
	"slices"
	"testing"
)

// HAProxy's own check is OPTIONS /: what does not answer it is taken out.
func TestEveryRouteAnswersOptionsAndHead(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	for path, allow := range map[string]string{
		"/": "OPTIONS, GET, HEAD", "/login": "OPTIONS, GET, HEAD, POST", "/logout": "OPTIONS, POST",
		"/console/style.css": "OPTIONS, GET, HEAD", "/console/favicon.svg": "OPTIONS, GET, HEAD", "/console/console.js": "OPTIONS, GET, HEAD",
		"/console/pools": "OPTIONS, GET, HEAD", "/console/pools/claude/pause": "OPTIONS, GET, HEAD, POST", "/console/pools/claude/resume": "OPTIONS, POST",
		"/monitoring": "OPTIONS, GET, HEAD", "/monitoring/": "OPTIONS, GET, HEAD", "/monitoring/queues/x": "OPTIONS, GET, HEAD",
		"/monitoring/api/queues": "OPTIONS, GET, HEAD, POST, DELETE",
	} {
		a := s.do(nil, "OPTIONS", path, nil)
		if a.StatusCode != 204 || a.Header.Get("Allow") != allow || len(a.Cookies()) > 0 {
			t.Errorf("OPTIONS %s: %d, Allow %q, want 204 and %q", path, a.StatusCode, a.Header.Get("Allow"), allow)
		}
		if a := s.do(nil, "PATCH", path, nil, "Sec-Fetch-Site", "same-origin"); a.StatusCode != 405 || a.Header.Get("Allow") != allow {
			t.Errorf("PATCH %s: %d, Allow %q, want 405 and %q", path, a.StatusCode, a.Header.Get("Allow"), allow)
		}
		if path == "/logout" || path == "/console/pools/claude/resume" {
			continue
		}
		for _, fields := range [][]string{nil, {"Authorization", "Bearer change"}} {
			head, get := s.do(nil, "HEAD", path, nil, fields...), s.do(nil, "GET", path, nil, fields...)
			if head.StatusCode != get.StatusCode || head.body != "" || !slices.Equal(head.Header["Content-Type"], get.Header["Content-Type"]) {
				t.Errorf("HEAD %s: %d %q, GET: %d %q", path, head.StatusCode, head.Header["Content-Type"], get.StatusCode, get.Header["Content-Type"])
			}
		}
	}
	if a := s.do(nil, "OPTIONS", "/nothing", nil); a.StatusCode != 404 {
		t.Errorf("OPTIONS /nothing: %d", a.StatusCode)
	}
}
