package web

import (
	"bufio"
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// events reads a stream's events one by one: "" for its end.
type events struct {
	*testing.T
	lines *bufio.Scanner
}

func (s *site) listen(jar http.CookieJar, path string) events {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := (&http.Client{Transport: s.Client().Transport, Jar: jar}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || kind != "text/event-stream" {
		s.t.Fatalf("%s: %d %s", path, resp.StatusCode, kind)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return events{s.t, lines}
}

func (e events) next() (name, data string) {
	e.Helper()
	for e.lines.Scan() {
		switch kind, text, _ := strings.Cut(e.lines.Text(), ": "); kind {
		case "event":
			name = text
		case "data":
			data += text + "\n"
		case "":
			return name, data
		}
	}
	return "", ""
}

// until reads on to an event that has a text.
func (e events) until(name, text string) {
	e.Helper()
	for {
		switch got, data := e.next(); {
		case got == name && strings.Contains(data, text):
			return
		case got == "":
			e.Fatalf("the stream ended before %s %q", name, text)
		}
	}
}

// A page's part comes again as it changes, what cannot be read is told, and the stream ends
// with the session, in every process.
func TestAPageIsRenewedByEvents(t *testing.T) {
	s := newSite(t, func(c *Config) { c.every = 5 * time.Millisecond })
	s.set(somePools()...)
	jar := s.signIn("look")
	for _, path := range []string{"/console/pools", "/console/pools/gpt"} {
		s.want(s.do(jar, "GET", path, nil, "Accept", "*/*"), 200, "data-title") // a part alone, for who does not listen
	}
	live := s.listen(jar, "/console/pools")
	live.until("page", "for the provider to recover")
	s.set(tasks.PoolStatus{Name: "other", State: tasks.PoolOpen, Queued: 7})
	live.until("page", "7 jobs wait for their turn.")
	s.fail(tasks.ErrUnavailable)
	live.until("page", "cannot be read just now")
	s.fail(nil)
	live.until("page", "7 jobs wait for their turn.")
	gone := s.listen(jar, "/console/pools/other")
	gone.until("page", "data-title")
	s.set()
	gone.until("over", "")
	s.want(s.do(jar, "POST", "/logout", url.Values{}), 303)
	live.until("over", "")
	if name, _ := live.next(); name != "" {
		t.Errorf("after its end there is %q", name)
	}
	s.want(s.do(nil, "GET", "/console/pools", nil, "Accept", "text/event-stream"), 401)
}

// What a stream tells somebody is what the page does: of another tenant's job nothing that it holds.
func TestAStreamHoldsNoMoreThanThePage(t *testing.T) {
	s := newJobsSite(t)
	id := s.job("acme", "claude-x", "answer-canary")
	for token, own := range map[string]bool{"look": false, "change": false, "own": true} {
		live := s.listen(s.signIn(token), "/console/jobs/"+id)
		name, data := live.next()
		if name != "page" || !strings.Contains(data, id) || strings.Contains(data, "canary") || strings.Contains(data, "alert(1)") != own {
			t.Errorf("%s is shown %s %s", token, name, data)
		}
	}
}

// Who sees the same of the same page is shown one rendering, who sees another thing his own; and all
// streams end when the process is to.
func TestViewersShareAStream(t *testing.T) {
	var asked atomic.Int64
	s := newSite(t, func(c *Config) {
		c.every = time.Hour
		status := c.Status
		c.Status = func(ctx context.Context) ([]tasks.PoolStatus, error) { asked.Add(1); return status(ctx) }
	})
	s.set(somePools()...)
	w := s.Config.Handler.(*Web)
	jars := []http.CookieJar{s.signIn("look"), s.signIn("look"), s.signIn("change")}
	var all sync.WaitGroup
	for i := range 30 {
		live := s.listen(jars[i%3], "/console/pools")
		all.Go(func() {
			live.until("page", "data-title")
			if name, _ := live.next(); name != "" {
				t.Errorf("the end is %q", name)
			}
		})
	}
	w.Drain()
	w.Drain()
	all.Wait()
	if n := asked.Load(); n != 2 {
		t.Errorf("the state was asked for %d times, want once for monitor and once for admin", n)
	}
}

// A part that took long is shown as it was for a while, so that many that look at it do not keep Redis busy; what could not be
// read is asked for again as soon as ever.
func TestACostlyPartIsMadeSeldom(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		takes, fresh time.Duration
		status       int
	}{
		{time.Millisecond, 2 * time.Second, http.StatusOK},
		{100 * time.Millisecond, 5 * time.Second, http.StatusOK},
		{3 * time.Second, 10 * time.Second, http.StatusOK},
		{3 * time.Second, 2 * time.Second, http.StatusServiceUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &Web{every: 2 * time.Second, streams: &streams{by: map[string]int{}, shows: map[string]*showing{}}}
			r, err := http.NewRequestWithContext(t.Context(), "GET", "/console/jobs", nil)
			if err != nil {
				t.Fatal(err)
			}
			made := 0
			look := func(after time.Duration) int {
				<-time.After(after)
				_, err := w.shown(r, viewer{}, func(rw http.ResponseWriter, _ *http.Request, _ viewer) {
					made++
					<-time.After(row.takes)
					rw.WriteHeader(row.status)
				})
				if err != nil {
					t.Fatal(err)
				}
				return made
			}
			if a, b, c := look(0), look(row.fresh-time.Millisecond), look(time.Millisecond); a != 1 || b != 1 || c != 2 {
				t.Errorf("%+v: made %d times at first, %d before that time, %d after it", row, a, b, c)
			}
		})
	}
}

// Where users are kept apart, two of a tenant never see the same, whatever they are called.
func TestUsersOfATenantShareNoSight(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, subject := range []string{"ada", "bob", "ada\njobs:read", "ada\"", "ada jobs:read", "ada/bob"} {
		for _, scopes := range [][]string{{"jobs:read"}, {"jobs:read", "monitor"}} {
			who := strings.Join(scopes, "+") + " " + subject
			apart := &Web{cfg: Config{SeparateUsers: true}}
			v, err := apart.admit(Identity{Subject: subject, Tenant: "acme", Scopes: scopes})
			if err != nil {
				t.Fatal(err)
			}
			if other, same := seen[v.sight()]; same {
				t.Errorf("%q is shown what %q sees", who, other)
			}
			seen[v.sight()] = who
		}
	}
}
