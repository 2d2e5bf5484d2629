package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
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
	closing := httptest.NewUnstartedServer(nil) // TLS is spoken there, and what is not TLS is closed without a word
	closing.TLS = &tls.Config{Certificates: secure.TLS.Certificates}
	closing.Config.ErrorLog = secure.Config.ErrorLog
	wordless, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closing.Listener.Close()
	closing.Listener = onlyTLS{wordless}
	closing.StartTLS()
	defer closing.Close()
	expired := func(cfg *Config) {
		roots := x509.NewCertPool()
		roots.AddCert(secure.Certificate())
		cfg.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Time: func() time.Time { return secure.Certificate().NotAfter.Add(time.Hour) }}}}
	}
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
		{"an expired certificate", secure.URL, expired, TLSExpired, true, "has expired or is not valid yet", "127.0.0.1"},
		{"http where TLS is spoken", strings.Replace(closing.URL, "https", "http", 1), nil, NotHTTP, true, "does not speak the protocol", "base_url has to begin with https"},
		{"nginx where TLS is spoken", served(t, page(400, "Content-Type: text/html", "<title>400 The plain HTTP request was sent to HTTPS port</title>")), nil, NotDialect, true, "sent to HTTPS port", "400 with text/html"},
		{"a server of files", served(t, page(501, "Content-Type: text/html", "<title>Error 501</title>")), nil, NotDialect, true, "Error 501", "501 with text/html"},
		{"a coding that is not read", served(t, page(200, "Content-Encoding: br", "\v\x02\x80hello\x03")), nil, Encoded, true, "compressed in a way that was not asked for: br", "200 in the coding br"},
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

// served returns the address of a server of h.
func served(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// onlyTLS closes each connection whose first byte begins no handshake.
type onlyTLS struct{ net.Listener }

func (l onlyTLS) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err == nil && first[0] == 22 {
			return &begun{c, first}, nil
		}
		c.Close()
	}
}

// begun is a connection of which a byte has been read.
type begun struct {
	net.Conn
	first []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) == 0 {
		return b.Conn.Read(p)
	}
	n := copy(p, b.first)
	b.first = b.first[n:]
	return n, nil
}

// A provider that says nothing is told by where it stopped.
func TestWhereTimeRanOutIsNamed(t *testing.T) {
	t.Parallel()
	for stage, want := range map[string]struct {
		outcome tasks.Outcome
		billed  bool
		says    string
	}{
		"connect":    {tasks.ConnectError, false, "could not be reached in time"},
		"first byte": {tasks.Timeout, true, "no complete answer in time"},
		"mid-body":   {tasks.Timeout, true, "no complete answer in time"},
	} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{})
			arrives := sync.OnceFunc(func() { close(reached) })
			url := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if stage == "mid-body" {
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, "event: ping\ndata: {\"type\":\"ping\"}\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				arrives()
				<-r.Context().Done()
			}))
			c := newCaller(t, Anthropic, url, func(cfg *Config) {
				if stage == "connect" {
					cfg.Client = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
						arrives()
						<-t.Context().Done()
						return nil, t.Context().Err()
					}}}
				}
			})
			ctx, pass := redistest.Expiring(t.Context())
			defer pass()
			go func() { <-reached; pass() }()
			if a := c.Do(ctx, ask("hi")); a.Outcome != want.outcome || a.MaybeBilled != want.billed || !strings.Contains(a.Message, want.says) {
				t.Errorf("%s, maybe billed %t, %q; want %+v", a.Outcome, a.MaybeBilled, a.Message, want)
			}
		})
	}
}
