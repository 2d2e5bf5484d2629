package web

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// behind returns the address of a reverse proxy that serves a site under /sluice, and
// takes that away.
func behind(t *testing.T, token string) (address string) {
	t.Helper()
	front := httptest.NewUnstartedServer(nil)
	address = "http://" + front.Listener.Addr().String() + "/sluice"
	s := newSite(t, func(c *Config) { c.PublicURL = address })
	s.set(somePools()...)
	enqueue(t, s)
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		if token != "" {
			r.Out.Header.Set("Authorization", "Bearer "+token)
		}
	}}
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/sluice/") {
			t.Errorf("a request went past the prefix: %s %s", r.Method, r.URL.Path)
			http.NotFound(w, r)
			return
		}
		http.StripPrefix("/sluice", proxy).ServeHTTP(w, r)
	})
	front.Start()
	t.Cleanup(front.Close)
	return address
}

// Every address of the console begins with the path of public_url.
func TestUnderAPathOfPublicURL(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.PublicURL = "https://gate.example/sluice" })
	s.set(somePools()...)
	for path, want := range map[string]string{
		"/": "/sluice/login", "/monitoring/queues/x": "/sluice/login?next=%2Fmonitoring%2Fqueues%2Fx",
	} {
		if a := s.do(nil, "GET", path, nil); a.StatusCode != 303 || a.Header.Get("Location") != want {
			t.Errorf("GET %s: %d to %q, want %q", path, a.StatusCode, a.Header.Get("Location"), want)
		}
	}
	for _, path := range []string{"//login", "/console//style.css", "/monitoring//queues", "/console/../login", "/monitoring/./"} {
		if a := s.do(nil, "GET", path, nil); a.StatusCode != 404 || a.Header.Get("Location") != "" {
			t.Errorf("GET %s: %d to %q, want 404", path, a.StatusCode, a.Header.Get("Location"))
		}
	}
	for next, want := range map[string]string{"": "/sluice/", "/monitoring/x": "/sluice/monitoring/x", "//evil.example": "/sluice/"} {
		a := s.do(nil, "POST", "/login", url.Values{"token": {"change"}, "next": {next}})
		if a.StatusCode != 303 || a.Header.Get("Location") != want || len(a.Cookies()) != 1 ||
			a.Cookies()[0].Path != "/sluice" || a.Cookies()[0].Name != "__Secure-sluice_session" || !a.Cookies()[0].Secure {
			t.Errorf("sign-in with next %q: %d to %q, %q", next, a.StatusCode, a.Header.Get("Location"), a.Header["Set-Cookie"])
		}
	}
	address := regexp.MustCompile(`(?:href|src|action)="?(/[^" >]*)`)
	for _, path := range []string{"/", "/login", "/console/pools", "/console/pools/claude/pause", "/monitoring"} {
		a := s.do(nil, "GET", path, nil, "Authorization", "Bearer change")
		if path == "/login" {
			a = s.do(nil, "GET", path, nil)
		}
		found := address.FindAllStringSubmatch(a.body, -1)
		if a.StatusCode != 200 || len(found) == 0 {
			t.Errorf("GET %s: %d with %d addresses", path, a.StatusCode, len(found))
		}
		for _, m := range found {
			if !strings.HasPrefix(m[1], "/sluice/") {
				t.Errorf("GET %s: leads to %s", path, m[1])
			}
		}
	}
	if a := s.do(nil, "POST", "/console/pools/claude/resume", nil, "Authorization", "Bearer change"); a.Header.Get("Location") != "/sluice/" {
		t.Errorf("resume: %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	s.want(s.do(nil, "GET", "/monitoring/api/queues", nil, "Authorization", "Bearer change"), 200, "queues")
}

func TestBrowserBehindAPrefix(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	look := behind(t, "look")
	b.shows(look+"/monitoring/queues/claude?status=pending", "MuiTypography", jobID)
	b.shows(look+"/", "data-title=", "for the provider to recover")
	b.shows(behind(t, "")+"/", "A bearer token with the scope")
}

// A sign-in that fails for the proxy's sake says which setting helps.
func TestARefusedOriginNamesPublicURL(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *Config) { c.PublicURL = "http://inside.example" })
	a := s.do(nil, "POST", "/login", url.Values{"token": {"look"}}, "Origin", "http://gate.example")
	s.want(a, 403, "public_url", "http://gate.example")
	if log := s.log.String(); !strings.Contains(log, "origin=http://gate.example") || !strings.Contains(log, "public_url=http://inside.example") {
		t.Errorf("the log names neither:\n%s", log)
	}
	a = s.do(nil, "POST", "/login", nil, "Origin", `http://<script>"`)
	if s.want(a, 403, "public_url"); strings.Contains(a.body, "<script>") {
		t.Errorf("what the caller sent is in the page: %s", a.body)
	}
}
