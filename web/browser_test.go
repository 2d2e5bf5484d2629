package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBrowser looks at the pages as a browser does, since only a browser obeys a
// content security policy: asynqmon's page stays blank under one that is too narrow.
func TestBrowser(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := newSite(t, nil)
	s.set(somePools()...)
	enqueue(t, s)
	// The browser cannot sign in by itself, so somebody in between does it for him.
	signedIn := func(token string) string {
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+token)
			s.Config.Handler.ServeHTTP(w, r)
		}))
		t.Cleanup(front.Close)
		return front.URL
	}
	look := signedIn("look")
	// Asynqmon's script has run, and has got an answer from its API.
	b.shows(look+"/monitoring/queues/claude?status=pending", "MuiTypography", jobID)
	if dom := b.shows(look+"/", "data-title=", "for the provider to recover"); strings.Contains(dom, "gw-7.inside") {
		t.Error("somebody who may only look is shown hosts")
	}
	b.shows(signedIn("change")+"/", "data-title=", "provider answers &lt;529&gt;", `<p class="detail">to &lt;gw-7.inside:8443&gt;`)
}

// A browser that signs in by the form is known on every page, and after it has signed
// out a copy of its cookie is good for nothing.
func TestBrowserSignsInAndOut(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	s := newSite(t, nil)
	s.set(somePools()...)
	var mu sync.Mutex
	cookie := ""
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The browser presses no button by itself, so a page of the same origin does.
		if act, ok := strings.CutPrefix(r.URL.Path, "/press"); ok {
			w.Header().Set("Content-Type", "text/html")
			_, _ = fmt.Fprintf(w, `<form method="post" action="%s"><input name="token" value="change"></form><script>document.forms[0].submit()</script>`, act)
			return
		}
		if r.URL.Path == "/" {
			mu.Lock()
			cookie = r.Header.Get("Cookie")
			mu.Unlock()
		}
		s.Config.Handler.ServeHTTP(w, r)
	}))
	defer site.Close()
	b.shows(site.URL+"/press/login", "ada", "Sign out", "for the provider to recover")
	mu.Lock()
	copied := cookie
	mu.Unlock()
	s.look("the copied cookie", copied, 200)
	b.shows(site.URL+"/press/logout", "A bearer token with the scope")
	s.look("the copied cookie after the sign-out", copied, 303)
}

// browser is a Chromium with a profile of its own.
type browser struct {
	t             *testing.T
	path, profile string
}

// newBrowser skips the test where Chromium is not at hand, which it has to be in CI.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is not on PATH")
		}
		t.Skip("chromium is not on PATH")
	}
	profile, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: Chromium's children may still write while it is taken away.
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	return &browser{t, chromium, profile}
}

// shows opens an address, looks for what is on the page and for what the policy forbids,
// and returns the page.
func (b *browser) shows(address string, wants ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+b.profile, "--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom", address)
	var faults strings.Builder
	cmd.Stderr = &faults
	dom, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", address, err, &faults)
	}
	for _, want := range wants {
		if !strings.Contains(string(dom), want) {
			b.t.Errorf("%s: no %q in\n%.2000s", address, want, dom)
		}
	}
	for line := range strings.Lines(faults.String()) {
		if strings.Contains(line, "CONSOLE") && strings.Contains(line, "Content Security Policy") {
			b.t.Errorf("%s: %s", address, line)
		}
	}
	return string(dom)
}
