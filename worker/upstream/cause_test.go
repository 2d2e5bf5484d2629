package upstream

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever stands at the address in the provider's place, or between it and here,
// is named: to the job's owner without a host, to the operator with it.
func TestTheCauseIsNamed(t *testing.T) {
	t.Parallel()
	page := func(status int, header, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			name, value, _ := strings.Cut(header, ": ")
			w.Header().Set(name, value)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
	}
	plain := httptest.NewServer(page(200, "Content-Type: text/html", "<html><title>Sign in</title></html>"))
	defer plain.Close()
	moved := httptest.NewServer(page(308, "Location: https://thief.example/v1/messages?key=secret", ""))
	defer moved.Close()
	secure := httptest.NewUnstartedServer(page(200, "Content-Type: application/json", "{}"))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	secure.StartTLS()
	defer secure.Close()
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := nobody.Addr().String()
	_ = nobody.Close()
	ssh := serveBytes(t, []byte("SSH-2.0-OpenSSH_9.7\r\n"), false)
	trusting := func(cfg *Config) { cfg.Client = secure.Client() }
	silent := func(cfg *Config) {
		cfg.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS13}}}
	}

	for _, tc := range []struct {
		name, base string
		change     func(*Config)
		kind       CauseKind
		misfit     bool
		says       string
		detail     string
	}{
		{"no such name", "http://name.invalid", nil, NoSuchHost, false, "could not be resolved", "name.invalid"},
		{"nothing listens", "http://" + refused, nil, Refused, false, "the connection was refused", refused},
		{"a certificate for another name", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), trusting, TLSName, true, "for another name", "localhost"},
		{"an unknown authority", secure.URL, nil, TLSAuthority, true, "not trusted", "127.0.0.1"},
		{"no common version", secure.URL, silent, TLSFailed, true, "no secure connection", "127.0.0.1"},
		{"https where http is spoken", "https" + strings.TrimPrefix(plain.URL, "http"), nil, NotHTTP, true, "does not speak the protocol", "127.0.0.1"},
		{"ssh", ssh.url, nil, NotHTTP, true, "does not speak the protocol", "SSH-2.0"},
		{"a redirect", moved.URL, nil, Redirected, true, "redirects to another", "308 and redirects to https://thief.example/v1/messages"},
		{"a page", plain.URL, nil, NotDialect, true, "did not answer as the provider's API", "200 with text/html"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newCaller(t, Anthropic, tc.base, tc.change).Do(t.Context(), ask("hi"))
			if a.Cause.Kind != tc.kind || a.Cause.Kind.Misfit() != tc.misfit {
				t.Errorf("got %q (%s, %s), want %q", a.Cause.Kind, a.Outcome, a.Cause.Detail, tc.kind)
			}
			if a.Message != a.Cause.Message || !strings.Contains(a.Message, tc.says) || strings.Contains(a.Message, "127.0.0.1") || strings.Contains(a.Message, "thief") {
				t.Errorf("the owner is told %q, want %q and no address", a.Message, tc.says)
			}
			if !strings.Contains(a.Cause.Detail, tc.detail) || strings.Contains(a.Cause.Detail, "secret") {
				t.Errorf("the operator is told %q, want %q", a.Cause.Detail, tc.detail)
			}
		})
	}
}
