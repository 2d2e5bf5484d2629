package web

import (
	"strings"
	"testing"
)

// Whoever browses to an address that is nobody's, or that shows nothing, gets a page that leads
// back, signed in or not; a client of the API gets Problem Details.
func TestWhoIsLostIsLedBack(t *testing.T) {
	t.Parallel()
	s := newJobsSite(t)
	jar := s.signIn("own")
	const page = "text/html,application/xhtml+xml,*/*;q=0.8"
	for path, status := range map[string]int{
		"/nothing": 404, "/console/nothing": 404, "/console/console.html": 404, "/jobs/a/b": 404, "//jobs": 404, "/tenants/tokens": 404,
		"/jobs/job_1/cancel": 405, "/logout": 405,
	} {
		for name, fields := range map[string][]string{"a browser": {"Accept", page}, "a client": {"Accept", "application/json"}, "nobody known": nil, "a token": {"Accept", page, "Authorization", "Bearer own"}} {
			for _, signed := range []bool{false, true} {
				cookies := jar
				if !signed {
					cookies = nil
				}
				a := s.do(cookies, "GET", path, nil, fields...)
				kind := a.Header.Get("Content-Type")
				if name == "a browser" {
					if s.want(a, status, `href="/"`, `role="alert"`); !strings.HasPrefix(kind, "text/html") {
						t.Errorf("%s for %s is %s", path, name, kind)
					}
				} else if a.StatusCode != status || kind != "application/problem+json" {
					t.Errorf("%s for %s: %d, %s", path, name, a.StatusCode, kind)
				}
			}
		}
	}
	for _, path := range []string{"/console", "/console/"} {
		if a := s.do(nil, "GET", path, nil); a.StatusCode != 303 || a.Header.Get("Location") != "/" {
			t.Errorf("%s: %d to %q", path, a.StatusCode, a.Header.Get("Location"))
		}
	}
	a := s.do(jar, "POST", "/jobs/job_1/cancel", nil, "Accept", page, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example")
	s.want(a, 403, "That was not done", "https://evil.example", `href="/"`)
}
