package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(browsing{m}) }

// browsing runs the tests and then ends the browser that they share.
type browsing struct{ *testing.M }

func (b browsing) Run() int {
	code := b.M.Run()
	if err := theChromium.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// lent hands asynqmon the client of the test.
type lent struct{ redis.UniversalClient }

func (l lent) MakeRedisClient() any { return l.UniversalClient }

// tokens knows each token by heart.
type tokens map[string]Identity

func (t tokens) Verify(_ context.Context, raw string) (Identity, error) {
	id, ok := t[raw]
	if !ok {
		return Identity{}, errors.New("unknown token")
	}
	return id, nil
}

// logBuffer may be written while it is read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type site struct {
	*httptest.Server
	t     *testing.T
	redis *redis.Client
	log   *logBuffer
	reg   *prometheus.Registry

	mu     sync.Mutex
	now    time.Time
	pools  []tasks.PoolStatus
	fault  error
	called []string
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func goodConfig(rdb *redis.Client) Config {
	return Config{
		Redis: lent{rdb},
		Verifier: tokens{
			"look":    {Subject: "mona", Tenant: "ops", Scopes: []string{"monitor"}, ExpiresAt: noon.Add(time.Hour)},
			"change":  {Subject: "ada", Tenant: "ops", Scopes: []string{"jobs:read", "admin"}, ExpiresAt: noon.Add(24 * time.Hour)},
			"nothing": {Subject: "nora", Tenant: "acme", Scopes: []string{"jobs:write", "webhooks:write"}, ExpiresAt: noon.Add(time.Hour)},
			"caller":  {Subject: "carl", Tenant: "acme", Scopes: []string{"jobs:read", "jobs:write"}, ExpiresAt: noon.Add(time.Hour)},
		},
		Status:   func(context.Context) ([]tasks.PoolStatus, error) { return nil, nil },
		Sessions: store.New(store.Config{Redis: rdb}),
	}
}

func newSite(t *testing.T, edit func(*Config)) *site {
	t.Helper()
	return newSiteOn(t, redistest.New(t), edit)
}

// newSiteOn is another process of the same Redis.
func newSiteOn(t *testing.T, rdb *redis.Client, edit func(*Config)) *site {
	t.Helper()
	s := &site{t: t, redis: rdb, log: new(logBuffer), reg: prometheus.NewPedanticRegistry(), now: noon}
	c := goodConfig(s.redis)
	c.Now = func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }
	c.Log = slog.New(slog.NewTextHandler(s.log, nil))
	c.Metrics = s.reg
	c.Status = func(context.Context) ([]tasks.PoolStatus, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pools, s.fault
	}
	change := func(call string, pool string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.called = append(s.called, call)
		if pool == "nobody" {
			return fmt.Errorf("pool %s: %w", pool, tasks.ErrNotFound)
		}
		return nil
	}
	c.Pause = func(_ context.Context, pool, reason string, until time.Time, who Actor) error {
		by := who.Subject
		return change("pause "+pool+" by "+by+": "+tasks.PauseReason(reason, until), pool)
	}
	c.Resume = func(_ context.Context, pool string, who Actor) error {
		return change("resume "+pool+" by "+who.Subject, pool)
	}
	if edit != nil {
		edit(&c)
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(w)
	t.Cleanup(s.Close)
	return s
}

func (s *site) set(pools ...tasks.PoolStatus) { s.mu.Lock(); defer s.mu.Unlock(); s.pools = pools }
func (s *site) fail(err error)                { s.mu.Lock(); defer s.mu.Unlock(); s.fault = err }
func (s *site) advance(d time.Duration)       { s.mu.Lock(); defer s.mu.Unlock(); s.now = s.now.Add(d) }
func (s *site) calls() string                 { s.mu.Lock(); defer s.mu.Unlock(); return strings.Join(s.called, "; ") }

// answer is a response that has been read.
type answer struct {
	*http.Response
	body string
}

// do sends a request and follows no redirect.
func (s *site) do(jar http.CookieJar, method, path string, form url.Values, fields ...string) answer {
	s.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	client := http.Client{Transport: s.Client().Transport, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp, string(text)}
}

// signIn returns the cookies of somebody who signed in.
func (s *site) signIn(token string) http.CookieJar {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	a := s.do(jar, "POST", "/login", url.Values{"token": {token}})
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/" {
		s.t.Fatalf("sign-in: %d to %q\n%s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	return jar
}

func (s *site) want(a answer, status int, texts ...string) {
	s.t.Helper()
	if a.StatusCode != status {
		s.t.Errorf("%s %s: got %d, want %d\n%.300s", a.Request.Method, a.Request.URL.Path, a.StatusCode, status, a.body)
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			s.t.Errorf("%s %s: no %q in\n%.1500s", a.Request.Method, a.Request.URL.Path, text, a.body)
		}
	}
}

func TestSignedOut(t *testing.T) {
	s := newSite(t, nil)
	for _, row := range []struct {
		method, path string
		fields       []string
		status       int
		location     string
	}{
		{"GET", "/", nil, 303, "/login"},
		{"HEAD", "/", nil, 303, "/login"},
		{"GET", "/monitoring", nil, 303, "/login?next=%2Fmonitoring"},
		{"GET", "/monitoring/", nil, 303, "/login?next=%2Fmonitoring%2F"},
		{"GET", "/monitoring/queues/x?status=retry", []string{"Accept", "text/html,*/*"}, 303, "/login?next=%2Fmonitoring%2Fqueues%2Fx%3Fstatus%3Dretry"},
		{"GET", "/monitoring/static/js/main.5adda2da.chunk.js", []string{"Accept", "*/*"}, 303, "/login?next=%2Fmonitoring%2Fstatic%2Fjs%2Fmain.5adda2da.chunk.js"},
		{"GET", "/monitoring/api/queues", nil, 401, ""},
		{"POST", "/monitoring/api/queues/x:pause", nil, 401, ""},
		{"DELETE", "/monitoring/api/queues/x", nil, 401, ""},
		{"GET", "/console/pools", nil, 401, ""},
		{"GET", "/", []string{"Accept", "application/json"}, 401, ""},
		{"GET", "/", []string{"Authorization", "Bearer nonsense"}, 401, ""},
		{"GET", "/", []string{"Authorization", "Bearer change", "Authorization", "Bearer change"}, 401, ""},
		{"GET", "/", []string{"Authorization", "Basic change"}, 401, ""},
		{"GET", "/", []string{"Cookie", "sluice_session=e30.AA"}, 303, "/login"},
		{"POST", "/console/pools/claude/pause", nil, 401, ""},
		{"POST", "/console/pools/claude/resume", nil, 401, ""},
		{"GET", "/console/style.css", nil, 200, ""},
		{"GET", "/login", nil, 200, ""},
		{"GET", "/logout", nil, 405, ""},
		{"GET", "/console/console.html", nil, 404, ""},
		{"GET", "/monitoringX/api/queues", nil, 404, ""},
		{"GET", "/nothing", nil, 404, ""},
	} {
		a := s.do(nil, row.method, row.path, nil, row.fields...)
		if got := a.Header.Get("Location"); a.StatusCode != row.status || got != row.location {
			t.Errorf("%s %s %q: got %d to %q, want %d to %q", row.method, row.path, row.fields, a.StatusCode, got, row.status, row.location)
		}
		if a.StatusCode == 401 && !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s %s: no challenge", row.method, row.path)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store"} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q, want %q", row.method, row.path, name, got, want)
			}
		}
		if !strings.Contains(a.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s %s: may be framed", row.method, row.path)
		}
	}
	if s.calls() != "" {
		t.Errorf("called %s", s.calls())
	}
}

func TestManyBadTokensAreSlowedAndAValidOneNever(t *testing.T) {
	s := newSite(t, func(c *Config) { c.Failed = func(*http.Request) time.Duration { return 1500 * time.Millisecond } })
	a := s.do(nil, "POST", "/login", url.Values{"token": {"wrong"}})
	if s.want(a, 429, "not valid", `role="alert"`); a.Header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q, want 2", a.Header.Get("Retry-After"))
	}
	s.want(s.do(nil, "POST", "/login", url.Values{"token": {"look"}}), 303)
	s.want(s.do(nil, "GET", "/", nil, "Authorization", "Bearer wrong"), 429)
	s.want(s.do(nil, "GET", "/", nil, "Authorization", "Bearer look"), 200)
	s.want(s.do(nil, "GET", "/", nil), 303) // a cookie, or nothing at all, is no token
}

func TestSignIn(t *testing.T) {
	s := newSite(t, nil)
	s.want(s.do(nil, "POST", "/login", url.Values{"token": {"wrong"}}), 401, "not valid", `role="alert"`)
	s.want(s.do(nil, "POST", "/login", url.Values{}), 401, "not valid")
	s.want(s.do(nil, "POST", "/login?token=look", nil), 401, "not valid")
	s.want(s.do(nil, "POST", "/login", url.Values{"token": {"nothing"}}), 403, "scope")
	s.want(s.do(nil, "POST", "/login", url.Values{"token": {strings.Repeat("x", maxLoginBytes)}}), 400)

	a := s.do(nil, "POST", "/login", url.Values{"token": {" Bearer look\n"}})
	s.want(a, 303)
	if len(a.Cookies()) != 1 {
		t.Fatalf("%d cookies, want 1", len(a.Cookies()))
	}
	c := a.Cookies()[0]
	if c.Name != "sluice_session" || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.Secure ||
		c.MaxAge != 3600 || !c.Expires.Equal(noon.Add(time.Hour)) {
		t.Errorf("got cookie %s", c.Raw)
	}
	if strings.Contains(s.log.String(), "wrong") || strings.Contains(s.log.String(), c.Value) {
		t.Errorf("a secret is logged:\n%s", s.log)
	}

	// Where to go next is a page of ours.
	for next, want := range map[string]string{
		"/pools/claude?x=1": "/pools/claude?x=1", "/tenants": "/tenants", "/new": "/new", "/login": "/", "/jobsx": "/",
		"/monitoring/queues/x?status=retry": "/monitoring/queues/x?status=retry", "/monitoring": "/monitoring", "": "/",
		"//evil.example": "/", "https://evil.example": "/", "/monitoring.evil": "/", `/\evil.example`: "/", `/monitoring/\evil`: "/", "/logout": "/",
	} {
		a := s.do(nil, "POST", "/login", url.Values{"token": {"look"}, "next": {next}})
		if got := a.Header.Get("Location"); got != want {
			t.Errorf("next %q: got %q, want %q", next, got, want)
		}
	}

	jar := s.signIn("look")
	s.want(s.do(jar, "GET", "/", nil), 200, "mona", "monitor", "Sign out")
	if a := s.do(jar, "GET", "/login", nil); a.StatusCode != 303 || a.Header.Get("Location") != "/" {
		t.Errorf("the sign-in of somebody signed in: got %d", a.StatusCode)
	}
	s.want(s.do(jar, "POST", "/logout", nil), 303)
	s.want(s.do(jar, "GET", "/", nil), 303)
	for result, want := range map[string]float64{"accepted": 16, "invalid": 3, "forbidden": 1} {
		if got := counter(t, s.reg, result); got != want {
			t.Errorf("%s sign-ins: got %v, want %v", result, got, want)
		}
	}
}

func counter(t *testing.T, reg prometheus.Gatherer, result string) float64 {
	t.Helper()
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "sluice_console_sign_ins_total" && m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// cookieOf signs in and returns the cookie as a header has it.
func (s *site) cookieOf(token string, fields ...string) string {
	s.t.Helper()
	a := s.do(nil, "POST", "/login", url.Values{"token": {token}}, fields...)
	if len(a.Cookies()) != 1 || a.StatusCode != 303 {
		s.t.Fatalf("sign-in: %d with %d cookies", a.StatusCode, len(a.Cookies()))
	}
	return a.Cookies()[0].Name + "=" + a.Cookies()[0].Value
}

func (s *site) look(when, cookie string, want int) {
	s.t.Helper()
	if a := s.do(nil, "GET", "/", nil, "Cookie", cookie); a.StatusCode != want {
		s.t.Errorf("%s: got %d, want %d", when, a.StatusCode, want)
	}
}

func TestSessionEnds(t *testing.T) {
	s := newSite(t, nil)
	look, change := s.cookieOf("look"), s.cookieOf("change")
	s.look("fresh", look, 200)
	for i := len("sluice_session="); i < len(look); i++ {
		b := []byte(look)
		b[i] ^= 1
		s.look(fmt.Sprintf("byte %d changed", i), string(b), 303)
	}
	for _, cookie := range []string{look + "A", look[:len(look)-1], "sluice_session=", look + "; " + look, look + "; " + change} {
		s.look("cookie "+cookie, cookie, 303)
	}
	s.advance(time.Hour - time.Second)
	s.look("just before the token ends", look, 200)
	s.advance(time.Second)
	s.look("as the token ends", look, 303)
	s.look("a longer token", change, 200)
	s.want(s.do(nil, "POST", "/login", url.Values{"token": {"look"}}), 401, "no longer")
	s.advance(11*time.Hour - time.Second)
	s.look("just before 12 hours", change, 200)
	s.advance(time.Second)
	s.look("after 12 hours", change, 303)
}

// Redis forgets a session when its token ends, whatever a process does, and who reads
// Redis cannot sign in with what is there.
func TestASessionInRedis(t *testing.T) {
	s := newSite(t, nil)
	cookies := map[time.Duration]string{time.Hour: s.cookieOf("look"), 12 * time.Hour: s.cookieOf("change")}
	keys, err := s.redis.Keys(t.Context(), "sluice:*").Result()
	if err != nil || len(keys) != 2 {
		t.Fatalf("keys %q, %v; want one for each session", keys, err)
	}
	for _, key := range keys {
		ttl, who := s.redis.PTTL(t.Context(), key).Val(), s.redis.Get(t.Context(), key).Val()
		for most, cookie := range cookies {
			_, id, _ := strings.Cut(cookie, "=")
			if strings.Contains(key+who, id) {
				t.Errorf("%s holds the id of a session", key)
			}
			if strings.Contains(who, "mona") == (most == time.Hour) && (ttl > most || ttl < most-time.Minute) {
				t.Errorf("the session of %s lives %v, want %v", who, ttl, most)
			}
		}
		name := key[strings.LastIndex(key, ":")+1:]
		s.look("the name in Redis as a cookie", "sluice_session="+name, 303)
	}
}

// A session is one in every process, and none in any after the sign-out.
func TestSignOutEndsTheSessionEverywhere(t *testing.T) {
	s := newSite(t, nil)
	other := newSiteOn(t, s.redis, nil)
	foreign := newSiteOn(t, s.redis, func(c *Config) { c.SessionKey = []byte("of another secret") })
	cookie, stays := s.cookieOf("change"), s.cookieOf("change")
	other.look("in another process", cookie, 200)
	foreign.look("under another secret", cookie, 303)

	a := other.do(nil, "POST", "/logout", nil, "Cookie", cookie)
	other.want(a, 303)
	if len(a.Cookies()) != 1 || a.Cookies()[0].MaxAge >= 0 {
		t.Errorf("the browser keeps the cookie: %v", a.Header.Values("Set-Cookie"))
	}
	for name, site := range map[string]*site{"one": s, "the other": other} {
		for _, row := range []struct {
			method, path string
			want         int
		}{
			{"GET", "/", 303}, {"GET", "/console/pools", 401}, {"GET", "/console/pools/claude/pause", 303}, {"POST", "/console/pools/claude/pause", 401},
			{"POST", "/console/pools/claude/resume", 401}, {"GET", "/monitoring", 303}, {"GET", "/monitoring/api/queues", 401}, {"DELETE", "/monitoring/api/queues/x", 401},
		} {
			if a := site.do(nil, row.method, row.path, nil, "Cookie", cookie); a.StatusCode != row.want {
				t.Errorf("%s %s in %s with a copied cookie: got %d, want %d", row.method, row.path, name, a.StatusCode, row.want)
			}
		}
	}
	other.want(other.do(nil, "POST", "/logout", nil, "Cookie", cookie), 303) // a repeat changes nothing
	s.look("another session of the same token", stays, 200)
	if s.calls() != "" {
		t.Errorf("called %s", s.calls())
	}
}

// A sign-in has an id that nobody knew before it, and the one before it is dead.
func TestASignInIsANewSession(t *testing.T) {
	s := newSite(t, nil)
	planted := "sluice_session=" + strings.Repeat("A", sessionIDChars)
	first := s.cookieOf("look", "Cookie", planted)
	second := s.cookieOf("look", "Cookie", first)
	if first == planted || second == first {
		t.Error("a sign-in takes the id that the browser sent")
	}
	s.look("a planted id", planted, 303)
	s.look("the session before", first, 303)
	s.look("the session", second, 200)
}

// While Redis is away nobody is signed out, nobody is told that he is, and nothing
// is served.
func TestRedisAwaySignsNobodyOut(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{AOF: "always"})
	s := newSiteOn(t, server.Client(), nil)
	cookie := s.cookieOf("change")
	server.Kill()
	for _, row := range []struct {
		method, path, want string
	}{
		{"GET", "/", "You stay signed in"}, {"GET", "/login", "You stay signed in"}, {"GET", "/monitoring", "You stay signed in"},
		{"GET", "/console/pools", "data-title"}, {"GET", "/monitoring/api/queues", "Redis cannot be reached"},
		{"POST", "/console/pools/claude/resume", "Redis cannot be reached"}, {"POST", "/logout", "You are not signed out"},
	} {
		a := s.do(nil, row.method, row.path, nil, "Cookie", cookie)
		s.want(a, 503, row.want)
		if len(a.Cookies()) > 0 {
			t.Errorf("%s %s: the cookie is changed: %v", row.method, row.path, a.Header.Values("Set-Cookie"))
		}
	}
	s.want(s.do(nil, "POST", "/login", url.Values{"token": {"change"}}), 503, "nobody can be signed in now")
	s.want(s.do(nil, "GET", "/login", nil), 200, "Token")
	s.want(s.do(nil, "GET", "/", nil, "Authorization", "Bearer look"), 200, "mona")
	if s.calls() != "" {
		t.Errorf("called %s", s.calls())
	}
	server.Start()
	redistest.Until(t, "Redis is back", func() bool { return s.do(nil, "GET", "/", nil, "Cookie", cookie).StatusCode == 200 })
}

// A trusted proxy's word that a browser came over https is enough for its cookie to be
// sent over https only; the name stays, so that it is found either way.
func TestCookieOfABrowserThatCameOverHTTPS(t *testing.T) {
	s := newSite(t, func(c *Config) {
		c.HTTPS = func(r *http.Request) bool { return r.Header.Get("X-Forwarded-Proto") == "https" }
	})
	for proto, want := range map[string]bool{"https": true, "http": false} {
		a := s.do(nil, "POST", "/login", url.Values{"token": {"look"}}, "X-Forwarded-Proto", proto)
		s.want(a, 303)
		c := a.Cookies()[0]
		if c.Secure != want || c.Name != "sluice_session" {
			t.Errorf("%s: got cookie %s", proto, c.Raw)
		}
		s.want(s.do(nil, "GET", "/", nil, "Cookie", c.Name+"="+c.Value, "X-Forwarded-Proto", proto), 200)
	}
}

func TestSecureCookie(t *testing.T) {
	s := newSite(t, func(c *Config) { c.PublicURL = "https://sluice.example" })
	c := s.do(nil, "POST", "/login", url.Values{"token": {"look"}}).Cookies()[0]
	if c.Name != "__Host-sluice_session" || !c.Secure || c.Path != "/" || c.Domain != "" || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode {
		t.Errorf("got cookie %s", c.Raw)
	}
	s.want(s.do(nil, "GET", "/", nil, "Cookie", c.Name+"="+c.Value), 200)
	s.want(s.do(nil, "GET", "/", nil, "Cookie", "sluice_session="+c.Value), 303)
}

func TestOtherOrigins(t *testing.T) {
	s := newSite(t, func(c *Config) { c.PublicURL = "https://sluice.example" })
	c := s.do(nil, "POST", "/login", url.Values{"token": {"change"}}).Cookies()[0]
	cookie := c.Name + "=" + c.Value
	for _, path := range []string{"/login", "/logout", "/console/pools/claude/pause", "/console/pools/claude/resume", "/monitoring/api/queues/x:pause", "/monitoring/"} {
		for _, fields := range [][]string{
			{"Origin", "https://evil.example"},
			{"Origin", "null"},
			{"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "same-site", "Origin", "https://other.sluice.example"},
		} {
			a := s.do(nil, "POST", path, url.Values{"reason": {"x"}}, append(fields, "Cookie", cookie)...)
			if a.StatusCode != 403 {
				t.Errorf("POST %s with %q: got %d, want 403", path, fields, a.StatusCode)
			}
		}
	}
	s.want(s.do(nil, "DELETE", "/monitoring/api/queues/x", nil, "Cookie", cookie, "Sec-Fetch-Site", "cross-site"), 403)
	if s.calls() != "" {
		t.Fatalf("called %s", s.calls())
	}
	// The address in the browser, though the proxy asks for another host.
	s.want(s.do(nil, "POST", "/console/pools/claude/resume", nil, "Cookie", cookie, "Origin", "https://sluice.example"), 303)
	s.want(s.do(nil, "POST", "/console/pools/claude/resume", nil, "Cookie", cookie, "Sec-Fetch-Site", "same-origin"), 303)
	if s.calls() != "resume claude by ada; resume claude by ada" {
		t.Errorf("called %s", s.calls())
	}
}

func somePools() []tasks.PoolStatus {
	return []tasks.PoolStatus{
		{Name: "gpt", State: tasks.PoolOpen, Since: noon.Add(-26 * time.Hour), Queued: 12348, Scheduled: 3, NextScheduledAt: noon.Add(time.Hour), WaitsFor: tasks.WaitInputTokens, DrainedAt: noon.Add(90 * time.Second), Running: 8, OldestQueuedAt: noon.Add(-75 * time.Second),
			Allowance: []tasks.Allowance{{Dimension: tasks.WaitRequests, Limit: 1000, Used: 0.4}, {Dimension: tasks.WaitInputTokens, Limit: 2000000, Used: 0.992}}},
		{Name: "quiet", State: tasks.PoolOpen},
		{Name: "claude", State: tasks.PoolPaused, Since: noon.Add(-3 * time.Minute), Reason: `provider answers <529>`, Detail: `to <gw-7.inside:8443>`, PausedBy: "breaker",
			ExpectedResumeAt: noon.Add(30 * time.Second), Queued: 1, OldestQueuedAt: noon.Add(-2*time.Hour - 5*time.Minute)},
		{Name: "half", State: tasks.PoolDegraded, Since: noon.Add(-30 * time.Second), Reason: "opening again", Queued: 3, Running: 2},
		{Name: "held/1", State: tasks.PoolPaused, PausedBy: "operator", Reason: "invoice", Queued: 2, WaitsFor: tasks.WaitPaused},
	}
}

func TestConsole(t *testing.T) {
	s := newSite(t, func(c *Config) {
		c.Fake, c.Version = true, "v1.2.3"
		c.Notices = func() []string { return []string{"Jobs do not survive a <restart>."} }
	})
	s.set(somePools()...)
	jar := s.signIn("look")
	a := s.do(jar, "GET", "/", nil)
	s.want(a, 200,
		"Built-in fake provider", "Jobs do not survive a &lt;restart&gt;.", "v1.2.3", `href="/monitoring"`, `href="/docs"`,
		"<title>2 paused – Sluice</title>", "12\u202f351", "2 h 5 min",
		"12\u202f345 jobs wait for the provider&#39;s allowance of input tokens.", "They run as the allowance permits.", "99 % ", "of 2\u202f000\u202f000 a minute", `class="full"`,
		"Nothing waits.", "The next job starts at once.",
		"1 job waits for the provider to recover.", "expected 12:00:30 UTC (in 30 s)", "provider answers &lt;529&gt;", "by breaker", "3 min 0 s",
		"3 jobs wait for their turn.", "step by step",
		"2 jobs wait for an operator to resume the pool.", "stays paused until an operator resumes it",
		"19 Nov 10:00 UTC", `http-equiv="refresh"`)
	order := []int{}
	for _, name := range []string{">claude<", ">held/1<", ">half<", ">gpt<", ">quiet<"} {
		order = append(order, strings.Index(a.body, name))
	}
	for i := 1; i < len(order); i++ {
		if order[i] <= order[i-1] {
			t.Errorf("pools are not ordered by trouble: %v", order)
		}
	}
	if strings.Contains(a.body, "gw-7.inside") || strings.Contains(s.do(jar, "GET", "/console/pools", nil).body, "gw-7.inside") {
		t.Error("somebody who may only look is shown hosts")
	}
	if strings.Contains(a.body, "Pause…") || strings.Contains(a.body, "/resume") {
		t.Error("somebody who may only look is offered to change")
	}
	// The policy forbids what the page does not need, so the page must not need it.
	if m := regexp.MustCompile(`(?i)<script(?:>| [^>]*>[^<])|<style| style=| on[a-z]+=|(?:src|href|action)="(?:https?:)?//`).FindString(a.body); m != "" {
		t.Errorf("the page holds %q", m)
	}
	f := s.do(jar, "GET", "/console/pools", nil)
	s.want(f, 200, `data-title="2 paused – Sluice"`, "claude")
	if strings.Contains(f.body, "<html") || !strings.Contains(a.body, f.body) {
		t.Error("the fragment is not the part of the page that it renews")
	}
	s.want(s.do(nil, "GET", "/", nil, "Authorization", "Bearer look"), 200, "mona")

	s.fail(errors.New("dial 10.0.0.7:6379: refused"))
	for _, path := range []string{"/", "/console/pools"} {
		a := s.do(jar, "GET", path, nil)
		s.want(a, 503, "cannot be read", "data-title")
		if strings.Contains(a.body, "10.0.0.7") {
			t.Error("the page shows the insides")
		}
	}
	if !strings.Contains(s.log.String(), "10.0.0.7") {
		t.Error("the fault is not logged")
	}
	s.fail(nil)
	s.set()
	s.want(s.do(jar, "GET", "/", nil), 200, "No pools are configured.")
	for path, kind := range map[string]string{"/console/style.css": "text/css", "/console/console.js": "text/javascript", "/console/favicon.svg": "image/svg+xml"} {
		if a := s.do(jar, "GET", path, nil); a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), kind) || len(a.body) < 100 {
			t.Errorf("%s: got %d %s", path, a.StatusCode, a.Header.Get("Content-Type"))
		}
	}
}

func TestPauseAndResume(t *testing.T) {
	s := newSite(t, nil)
	s.set(somePools()...)
	admin, monitor := s.signIn("change"), s.signIn("look")
	a := s.do(admin, "GET", "/", nil)
	s.want(s.do(admin, "GET", "/console/pools", nil), 200, "to &lt;gw-7.inside:8443&gt;")
	s.want(a, 200, "admin", "to &lt;gw-7.inside:8443&gt;", `href="/console/pools/gpt/pause"`, `action="/console/pools/claude/resume"`, `action="/console/pools/held%2F1/resume"`,
		`href="/console/pools/claude/pause">Keep paused…<`)
	if strings.Contains(a.body, "/console/pools/held%2F1/pause") || strings.Contains(a.body, "/console/pools/gpt/resume") {
		t.Error("a change is offered that changes nothing")
	}
	s.want(s.do(admin, "GET", "/console/pools/gpt/pause", nil), 200, `action="/console/pools/gpt/pause"`)
	for _, path := range []string{"/console/pools/gpt/pause", "/console/pools/gpt/resume"} {
		s.want(s.do(monitor, "POST", path, url.Values{"reason": {"x"}}), 403)
	}
	s.want(s.do(monitor, "GET", "/console/pools/gpt/pause", nil), 403)
	for _, reason := range []string{"", "  ", "two\nlines", "\x1b[2J", "\xff", strings.Repeat("x", tasks.MaxReason+1)} {
		s.want(s.do(admin, "POST", "/console/pools/gpt/pause", url.Values{"reason": {reason}}), 422, `role="alert"`)
	}
	for _, span := range []string{"5m", "-1h", "x", "8785h"} {
		s.want(s.do(admin, "POST", "/console/pools/gpt/pause", url.Values{"reason": {"x"}, "for": {span}}), 422, `role="alert"`)
	}
	if s.calls() != "" {
		t.Fatalf("called %s", s.calls())
	}
	a = s.do(admin, "POST", "/console/pools/gpt/pause", url.Values{"reason": {" key leaked, rotating "}})
	s.want(a, 303)
	if a.Header.Get("Location") != "/" {
		t.Errorf("went to %q", a.Header.Get("Location"))
	}
	s.want(s.do(admin, "POST", "/console/pools/gpt/pause", url.Values{"reason": {"work"}, "for": {"4h"}}), 303)
	s.want(s.do(admin, "POST", "/console/pools/held%2F1/resume", nil), 303)
	s.want(s.do(nil, "POST", "/console/pools/gpt/resume", nil, "Authorization", "Bearer change"), 303)
	s.want(s.do(admin, "POST", "/console/pools/nobody/resume", nil), 404)
	if got, want := s.calls(), "pause gpt by ada: key leaked, rotating; pause gpt by ada: work (until "+noon.Add(4*time.Hour).UTC().Format(time.RFC3339)+"); resume held/1 by ada; resume gpt by ada; resume nobody by ada"; got != want {
		t.Errorf("called %s, want %s", got, want)
	}
	if log := s.log.String(); !strings.Contains(log, "act=pause pool=gpt subject=ada") {
		t.Errorf("the change is not logged:\n%s", log)
	}

	none := newSite(t, func(c *Config) { c.Pause, c.Resume = nil, nil })
	none.set(somePools()...)
	jar := none.signIn("change")
	if a := none.do(jar, "GET", "/", nil); strings.Contains(a.body, "/pause") || strings.Contains(a.body, "/resume") {
		t.Error("a change is offered that nobody makes")
	}
	none.want(none.do(jar, "POST", "/console/pools/gpt/pause", url.Values{"reason": {"x"}}), 404)
}

func TestNewRefuses(t *testing.T) {
	rdb := redistest.New(t)
	good := func() Config { return goodConfig(rdb) }
	for _, row := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"no Redis", func(c *Config) { c.Redis = nil }, "Redis"},
		{"no verifier", func(c *Config) { c.Verifier = nil }, "Verifier"},
		{"no status", func(c *Config) { c.Status = nil }, "Status"},
		{"no sessions", func(c *Config) { c.Sessions = nil }, "Sessions"},
		{"public URL without a host", func(c *Config) { c.PublicURL = "sluice.example" }, "public_url"},
		{"public URL of another scheme", func(c *Config) { c.PublicURL = "ftp://sluice.example" }, "public_url"},
	} {
		c := good()
		row.edit(&c)
		if w, err := New(c); w != nil || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error about %s", row.name, err, row.want)
		}
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 999 * time.Millisecond: "0 s", 59 * time.Second: "59 s", 200 * time.Second: "3 min 20 s",
		2*time.Hour + 5*time.Minute: "2 h 5 min", 76 * time.Hour: "3 d 4 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1_000", -1000: "-1_000", -100: "-100", 1234567: "1_234_567"} {
		if got := strings.ReplaceAll(grouped(n), "\u202f", "_"); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "Nothing waits. The next job starts at once.", 1: "1 job waits for its turn. It runs as the allowance permits.", 2: "2 jobs wait for their turn. They run as the allowance permits."} {
		p := tasks.PoolStatus{State: tasks.PoolOpen, Queued: n}
		if got := waits(p) + " " + next(p, noon); got != want {
			t.Errorf("%d jobs: got %q, want %q", n, got, want)
		}
	}
	for want, p := range map[string]tasks.PoolStatus{
		"1 job is for later. The first may start at 13:00:00 UTC.":                                                                                                              {Queued: 1, Scheduled: 1},
		"2 jobs are for later. The first may start at 13:00:00 UTC.":                                                                                                            {Queued: 2, Scheduled: 2},
		"1 job waits for calls under way to end. 2 jobs are for later. It runs as the allowance permits.":                                                                       {Queued: 3, Scheduled: 2, WaitsFor: tasks.WaitConcurrency},
		"2 jobs wait for the provider's allowance of requests. They run as the allowance permits.":                                                                              {Queued: 2, WaitsFor: tasks.WaitRequests},
		"2 jobs wait for an operator to resume the pool. It stays paused until an operator resumes it; nothing is lost.":                                                        {Queued: 2, State: tasks.PoolPaused, PausedBy: "operator", WaitsFor: tasks.WaitPaused},
		"1 job waits for the provider to recover. The breaker tries the provider again at 12:00:05 UTC, and resumes the pool when that works, expected 12:00:30 UTC (in 30 s).": {Queued: 1, State: tasks.PoolPaused, PausedBy: "breaker", NextProbeAt: noon.Add(5 * time.Second), ExpectedResumeAt: noon.Add(30 * time.Second)},
	} {
		p.NextScheduledAt = noon.Add(time.Hour)
		if got := waits(p) + " " + next(p, noon); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

var _ asynq.RedisConnOpt = lent{}

// Somebody in a browser who is refused meets a page that leads back; a program meets
// Problem Details.
func TestARefusalIsAPage(t *testing.T) {
	s := newSite(t, nil)
	s.set(somePools()...)
	jar := s.signIn("look")
	for _, row := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/console/pools/claude/pause", 403},
		{"POST", "/console/pools/claude/pause", 403},
		{"POST", "/console/pools/claude/resume", 403},
	} {
		s.want(s.do(jar, row.method, row.path, nil), row.status, "<h1>", "scope admin", `href="/"`)
		if a := s.do(nil, row.method, row.path, nil, "Authorization", "Bearer look"); a.StatusCode != row.status || a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s by a program: %d %s", row.method, row.path, a.StatusCode, a.Header.Get("Content-Type"))
		}
	}
	s.want(s.do(s.signIn("caller"), "GET", "/monitoring", nil), 403, "<h1>", "scope monitor", `href="/"`)
}
