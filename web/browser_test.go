package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
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
	// What was known stays on the page, greyed and with its time, while the state cannot be read.
	breaks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/console/pools" {
			s.fail(errors.New("redis is silent"))
		}
		r.Header.Set("Authorization", "Bearer look")
		s.Config.Handler.ServeHTTP(w, r)
	}))
	defer breaks.Close()
	b.shows(breaks.URL+"/", "for the provider to recover", "cannot be read just now", "what stands below is old", `class="old"`)
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

// browser is a profile of its own, without a cookie, in the one Chromium of these tests.
type browser struct {
	t       *testing.T
	process *chromium
	profile string
}

// newBrowser skips the test where Chromium is not at hand, which it has to be in CI.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is not on PATH")
		}
		t.Skip("chromium is not on PATH")
	}
	b := &browser{t: t, process: theChromium}
	if err := b.process.start(path); err != nil {
		t.Fatal(err)
	}
	var made struct{ BrowserContextID string }
	b.do("", "Target.createBrowserContext", nil, &made)
	b.profile = made.BrowserContextID
	return b
}

// do calls a method of the DevTools protocol, of a page's session or of the browser.
func (b *browser) do(session, method string, params map[string]any, result any) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.process.call(ctx, session, method, params, result); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

// shows opens an address, waits for what has to be on the page, looks for what the policy
// forbids, and returns the page.
func (b *browser) shows(address string, wants ...string) string {
	b.t.Helper()
	var target struct{ TargetID string }
	b.do("", "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": b.profile}, &target)
	var session struct{ SessionID string }
	b.do("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.do(session.SessionID, "Log.enable", nil, nil)
	b.do(session.SessionID, "Page.navigate", map[string]any{"url": address}, nil)
	lacks, dom := "", ""
	defer func() {
		if lacks != "" {
			b.t.Logf("%s: no %q in\n%.2000s", address, lacks, dom)
		}
	}()
	redistest.Until(b.t, address+" shows what it has to", func() bool {
		var got struct{ Result struct{ Value string } }
		// Between two pages there is nothing to ask.
		if b.process.call(b.t.Context(), session.SessionID, "Runtime.evaluate", map[string]any{"expression": "document.readyState + document.documentElement.outerHTML"}, &got) != nil {
			return false
		}
		dom = got.Result.Value
		for _, lacks = range append([]string{"complete<"}, wants...) {
			if !strings.Contains(dom, lacks) {
				return false
			}
		}
		lacks = ""
		return true
	})
	for _, said := range b.process.said(session.SessionID) {
		if strings.Contains(said, "Content Security Policy") {
			b.t.Errorf("%s: %s", address, said)
		}
	}
	b.do("", "Target.closeTarget", map[string]any{"targetId": target.TargetID}, nil)
	return dom
}
