package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// away is what stands at a provider's address in place of it.
func away(t *testing.T, h http.HandlerFunc, tls bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// TestARunNamesAMisfitAndEnds was: whoever typed a wrong address watched a silent
// wait, with a paid call every few seconds.
func TestARunNamesAMisfitAndEnds(t *testing.T) {
	t.Parallel()
	answer := func(status int, media, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	secure := away(t, answer(200, "text/plain", "x"), true)
	other, err := net.Listen("tcp", "127.0.0.1:0") // it speaks as Redis does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	go func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					if _, err := in.ReadString('\n'); err != nil {
						return
					}
					if _, err := io.WriteString(c, "-ERR unknown command\r\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
	expired, stale := staleServer(t)
	trusted := map[string][]byte{"ca.pem": secure.Certificate().Raw, "stale.pem": stale}
	_, port, _ := net.SplitHostPort(secure.Listener.Addr().String())
	for name, c := range map[string]struct{ url, ca, want string }{
		"no such host":     {"https://no-such-host.invalid/v1", "", "no-such-host.invalid"},
		"TLS authority":    {secure.URL, "", "signed by an authority that is not trusted"},
		"TLS name":         {"https://localhost:" + port, "ca.pem", "certificate is for another name"},
		"TLS spoken there": {"http://" + secure.Listener.Addr().String(), "", "HTTP request to an HTTPS server"},
		"redirect": {away(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/v2?key=secret", http.StatusMovedPermanently)
		}, false).URL, "", "https://elsewhere.example/v2"},
		"an expired certificate": {expired, "stale.pem", "has expired or is not valid yet"},
		"an edge":                {away(t, answer(400, "text/html", "<title>400 The plain HTTP request was sent to HTTPS port</title>"), false).URL, "", "sent to HTTPS port"},
		"a server of files":      {away(t, answer(501, "text/html", "<title>Unsupported method</title>"), false).URL, "", "Unsupported method"},
		"brotli": {away(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "\v\x02\x80hello\x03")
		}, false).URL, "", "compressed in a way that was not asked for: br"},
		"another dialect": {away(t, answer(200, "application/json", `{"type":"message","role":"assistant","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn"}`), false).URL, "", "set the provider's dialect to anthropic"},
		"a refused key":   {away(t, answer(401, "application/json", `{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}`), false).URL, "", "Incorrect API key provided"},
		"not HTTP":        {"http://" + other.Addr().String(), "", "does not speak the protocol"},
		"a page":          {away(t, answer(200, "text/html", "<html>Welcome to nginx</html>"), false).URL, "", "did not answer as the provider's API"},
		"another path":    {away(t, answer(404, "text/plain", "404 page not found"), false).URL, "", "answered 404 with text/plain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			ca := ""
			if c.ca != "" {
				d.write(c.ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted[c.ca]})))
				ca = fmt.Sprintf(", ca_file: %q", d.path(c.ca))
			}
			d.write("sluice.yaml", fmt.Sprintf(`
providers: {p: {dialect: openai, base_url: %q, api_key: a-key-of-ours%s}}
pools: {p: {provider: p, models: ["m*"]}}
`, c.url, ca))
			d.write("p.txt", "a\nb\nc\n")
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			code, _, stderr := d.runs(ctx, "", "@p.txt", "-o", "@out.jsonl", "--model", "m1")
			took := time.Since(begun)
			if code != 1 || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, "the same command") || strings.Contains(stderr, "secret") {
				t.Errorf("code %d after %s; want %q\n%s", code, took, c.want, stderr)
			}
			if took > time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// staleServer returns the address of a server whose certificate has expired, and that.
func staleServer(t *testing.T) (url string, cert []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Hour)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: long.Add(-time.Hour), NotAfter: long, IsCA: true, BasicConstraintsValid: true}
	cert, err = x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1), cert
}

// What a wait may heal is waited for, with its reason.
func TestARunWaitsForWhatAWaitMayHeal(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ url, want string }{
		"refused":  {"http://" + closed, "connection was refused"},
		"overload": {away(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, false).URL, "overloaded"},
		"words":    {away(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down for maintenance", 500) }, false).URL, "down for maintenance"},
		"closed":   {away(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false).URL, "the connection ended before an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			d.write("sluice.yaml", fmt.Sprintf(`
providers: {p: {dialect: openai, base_url: %q, api_key: a-key-of-ours}}
pools: {p: {provider: p, models: ["m*"]}}
`, c.url))
			d.write("p.txt", strings.Repeat("a\n", 30))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			said := &watched{want: "is paused: ", found: cancel}
			code := typeIn(ctx, []string{"run", d.path("p.txt"), "-o", d.path("out.jsonl"), "--model", "m1"}, d.environ, strings.NewReader(""), io.Discard, said)
			if text := said.text.String(); code != 1 || !strings.Contains(text, "pool p is paused: ") || !strings.Contains(text, c.want) || !strings.Contains(text, "its jobs wait") || !strings.Contains(text, "interrupted with") {
				t.Errorf("code %d; want %q\n%s", code, c.want, text)
			}
		})
	}
}

// watched is a stream that tells when something is written to it.
type watched struct {
	text  strings.Builder
	want  string
	found func()
}

func (w *watched) Write(p []byte) (int, error) {
	if w.text.Write(p); strings.Contains(w.text.String(), w.want) {
		w.found()
	}
	return len(p), nil
}
