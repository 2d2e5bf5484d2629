package api_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/caps"
)

// A page of another origin reads what it was configured for, errors and streams too, and
// without that nothing; the console is never for it.
func TestCORS(t *testing.T) {
	t.Parallel()
	const page = "https://app.example"
	s := serve(t, func(c *api.Config) {
		c.AllowOrigins = []string{page}
		c.Extra = map[string]http.Handler{"/console": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Content-Type-Options", "nosniff")
		})}
	})
	id := s.submit()
	s.world.start(id)
	s.world.succeed(id, "hi")
	off := serve(t)
	for name, c := range map[string]struct {
		site               *site
		method, path, from string
		token              string
		allowed            bool
	}{
		"a job":            {s, "GET", "/v1/jobs/" + id, page, reader, true},
		"a stream":         {s, "GET", "/v1/jobs/" + id + "/events", page, reader, true},
		"no token":         {s, "GET", "/v1/jobs", page, "", true},
		"no such route":    {s, "GET", "/v1/nothing", page, reader, true},
		"a preflight":      {s, "OPTIONS", "/v1/jobs", page, "", true},
		"another origin":   {s, "GET", "/v1/jobs", "https://app.example.evil.example", reader, false},
		"its preflight":    {s, "OPTIONS", "/v1/jobs", "https://evil.example", "", false},
		"null":             {s, "GET", "/v1/jobs", "null", reader, false},
		"the console":      {s, "GET", "/console", page, "", false},
		"off":              {off, "GET", "/v1/jobs", page, reader, false},
		"off, a preflight": {off, "OPTIONS", "/v1/jobs", page, "", false},
	} {
		req := c.site.request(t.Context(), c.method, c.path, c.token, nil, "Origin", c.from)
		if c.method == "OPTIONS" {
			req.Header.Set("Access-Control-Request-Method", "POST")
			req.Header.Set("Access-Control-Request-Headers", "authorization,x-stainless-lang,sluice-metadata-team,anthropic-dangerous-direct-browser-access,openai-beta")
		}
		res, err := c.site.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		h := res.Header
		if got := h.Get("Access-Control-Allow-Origin"); (got == page) != c.allowed || !c.allowed && got != "" {
			t.Errorf("%s: allowed for %q", name, got)
		}
		if h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: with cookies", name)
		}
		list := func(name string) []string { return strings.Split(strings.ToLower(h.Get(name)), ",") }
		if c.method == "OPTIONS" {
			for _, op := range s.api.Routes() {
				method, _, _ := strings.Cut(strings.ToLower(op), " ")
				if slices.Contains(list("Access-Control-Allow-Methods"), method) != c.allowed {
					t.Errorf("%s: %s is not among the methods %q", name, op, h.Get("Access-Control-Allow-Methods"))
				}
			}
			if res.StatusCode != 204 || h.Get("Allow") == "" {
				t.Errorf("%s: %s, Allow %q", name, res.Status, h.Get("Allow"))
			}
			for _, want := range []string{"authorization", "content-type", "idempotency-key", "prefer", "last-event-id", "x-stainless-lang", "x-stainless-timeout", "sluice-metadata-team", "anthropic-dangerous-direct-browser-access", "openai-beta"} {
				if slices.Contains(list("Access-Control-Allow-Headers"), want) && !c.allowed {
					t.Errorf("%s: %s may be sent", name, want)
				}
				if c.allowed && !slices.Contains(list("Access-Control-Allow-Headers"), want) {
					t.Errorf("%s: %s may not be sent", name, want)
				}
			}
			continue
		}
		for _, want := range []string{"location", "retry-after", "ratelimit", "ratelimit-policy", "etag", "x-request-id", "sluice-job-id", "preference-applied", "x-should-retry", "retry-after-ms"} {
			if c.allowed && !slices.Contains(list("Access-Control-Expose-Headers"), want) {
				t.Errorf("%s: %s cannot be read", name, want)
			}
		}
	}
}

// The log says whose request it was: the peer's, or what a trusted proxy says.
func TestTheLogHasTheCallersAddress(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.call("GET", "/v1/status", reader, nil, "X-Forwarded-For", "203.0.113.9").want(t, 200)
	if log := s.log.String(); !strings.Contains(log, "remote=127.0.0.1") || strings.Contains(log, "203.0.113.9") {
		t.Errorf("anybody's word is in the log:\n%s", log)
	}
	s = serve(t, func(c *api.Config) { c.Caps = trusting(t) })
	s.call("GET", "/v1/status", reader, nil, "X-Forwarded-For", "198.51.100.1, 203.0.113.9").want(t, 200)
	if log := s.log.String(); !strings.Contains(log, "remote=203.0.113.9") {
		t.Errorf("the log lacks the caller's address:\n%s", log)
	}
}

func trusting(t *testing.T) *caps.Room {
	return room(t, caps.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
}
