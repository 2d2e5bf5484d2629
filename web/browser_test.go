package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestBrowser looks at the pages as a browser does, since only a browser obeys a
// content security policy: asynqmon's page stays blank under one that is too narrow.
// It runs where Chromium is at hand, which it has to be in CI.
func TestBrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is not on PATH")
		}
		t.Skip("chromium is not on PATH")
	}
	s := newSite(t, nil)
	s.set(somePools()...)
	enqueue(t, s)
	// The browser cannot sign in by itself, so somebody in between does it for him.
	signedIn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer look")
		s.Config.Handler.ServeHTTP(w, r)
	}))
	defer signedIn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	profile, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: Chromium's children may still write while it is taken away.
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	for path, wants := range map[string][]string{
		// Asynqmon's script has run, and has got an answer from its API.
		"/monitoring/queues/claude?status=pending": {"MuiTypography", jobID},
		"/": {"data-title=", "for the provider to recover"},
	} {
		cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
			"--user-data-dir="+profile, "--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom", signedIn.URL+path)
		var faults strings.Builder
		cmd.Stderr = &faults
		dom, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", path, err, &faults)
		}
		for _, want := range wants {
			if !strings.Contains(string(dom), want) {
				t.Errorf("%s: no %q in\n%.2000s", path, want, dom)
			}
		}
		for line := range strings.Lines(faults.String()) {
			if strings.Contains(line, "CONSOLE") && strings.Contains(line, "Content Security Policy") {
				t.Errorf("%s: %s", path, line)
			}
		}
	}
}
