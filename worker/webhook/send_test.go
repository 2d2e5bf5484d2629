package webhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	official "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/webhook"
)

func newSender(t testing.TB, cfg webhook.SenderConfig) *webhook.Sender {
	t.Helper()
	s, err := webhook.NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// loopback is a sender that may reach the servers of these tests.
func loopback(t testing.TB, cfg webhook.SenderConfig) *webhook.Sender {
	t.Helper()
	cfg.Guard = newGuard(t, webhook.GuardConfig{AllowHTTP: true, AllowPrivate: true})
	return newSender(t, cfg)
}

func delivery(url string) webhook.Delivery {
	key, err := webhook.ParseSecret(vectorSecret)
	if err != nil {
		panic(err)
	}
	return webhook.Delivery{ID: "msg_1", URL: url, Body: []byte(`{"type":"job.succeeded"}`), Keys: []webhook.Key{key}}
}

// server is an HTTP server on loopback that ends with the test.
func server(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// raw is a server that writes answer as it stands to each connection, after it
// has read a request's head, and closes it.
func raw(t testing.TB, answer string) string {
	t.Helper()
	return rawFunc(t, func(c net.Conn) { io.WriteString(c, answer) })
}

func rawFunc(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for head := ""; !strings.Contains(head, "\r\n\r\n"); {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					head += string(buf[:n])
				}
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "http://" + l.Addr().String() + "/in"
}

func TestSendWhatArrives(t *testing.T) {
	type request struct {
		method, path, host string
		header             http.Header
		body               []byte
	}
	got := make(chan request, 1)
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- request{r.Method, r.URL.RequestURI(), r.Host, r.Header, body}
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "thank you")
	})
	s := loopback(t, webhook.SenderConfig{})
	d := delivery(srv.URL + "/in?key=1")
	old, ed := webhook.NewSecret(), webhook.NewPrivateKey()
	d.Keys = append(d.Keys, old, ed)
	res := s.Send(t.Context(), d)
	if res.Outcome != webhook.Delivered || res.Status != 202 || res.Body != "thank you" || res.Latency <= 0 {
		t.Fatalf("Send = %+v, want delivered, 202, thank you", res)
	}
	r := <-got
	if r.method != "POST" || r.path != "/in?key=1" || !bytes.Equal(r.body, d.Body) {
		t.Errorf("arrived %s %s %s", r.method, r.path, r.body)
	}
	want := map[string]string{
		"Content-Type": "application/json", "User-Agent": "Sluice-Webhooks/1.0", "Accept-Encoding": "identity",
		"Content-Length": strconv.Itoa(len(d.Body)), "Webhook-Id": "msg_1",
		"Webhook-Timestamp": r.header.Get("Webhook-Timestamp"), "Webhook-Signature": r.header.Get("Webhook-Signature"),
	}
	for name, value := range want {
		if v := r.header.Values(name); len(v) != 1 || v[0] != value {
			t.Errorf("header %s = %q, want %q", name, v, value)
		}
	}
	if len(r.header) != len(want) {
		t.Errorf("%d headers arrived, want %d: %v", len(r.header), len(want), r.header)
	}
	// Verified by ourselves with each key, and by the official library.
	for name, key := range map[string]webhook.VerifyKey{"current": secret(t, vectorSecret), "old": old, "ed25519": ed.Public()} {
		if err := webhook.Verify(r.header, r.body, time.Now(), key); err != nil {
			t.Errorf("Verify with the %s key = %v", name, err)
		}
	}
	for _, k := range []webhook.Secret{secret(t, vectorSecret), old} {
		judge, err := official.NewWebhook(k.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if err := judge.Verify(r.body, r.header); err != nil {
			t.Errorf("the official library refuses a delivery: %v", err)
		}
		if err := judge.Verify(append(r.body, ' '), r.header); err == nil {
			t.Error("the official library takes a changed delivery")
		}
	}
}

func TestTimestampIsOfTheAttempt(t *testing.T) {
	stamps := make(chan string, 2)
	srv := server(t, func(_ http.ResponseWriter, r *http.Request) { stamps <- r.Header.Get(webhook.HeaderTimestamp) })
	now := time.Unix(1_700_000_000, 0)
	s := loopback(t, webhook.SenderConfig{Now: func() time.Time { return now }})
	for _, want := range []string{"1700000000", "1700000300"} {
		s.Send(t.Context(), delivery(srv.URL))
		if got := <-stamps; got != want {
			t.Errorf("timestamp = %s, want %s", got, want)
		}
		now = now.Add(5 * time.Minute)
	}
}

func TestOutcomeOfEachStatus(t *testing.T) {
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		w.Header().Set("Location", "http://"+r.Host+"/200")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
	})
	s := loopback(t, webhook.SenderConfig{})
	for status, want := range map[int]webhook.Outcome{
		200: webhook.Delivered, 201: webhook.Delivered, 204: webhook.Delivered, 299: webhook.Delivered,
		300: webhook.Redirect, 301: webhook.Redirect, 302: webhook.Redirect, 303: webhook.Redirect,
		304: webhook.Redirect, 307: webhook.Redirect, 308: webhook.Redirect,
		400: webhook.Status4xx, 401: webhook.Status4xx, 404: webhook.Status4xx, 408: webhook.Status4xx,
		410: webhook.Gone, 429: webhook.Throttled, 499: webhook.Status4xx,
		500: webhook.Status5xx, 502: webhook.Status5xx, 503: webhook.Status5xx, 504: webhook.Status5xx,
		600: webhook.ProtocolError, 999: webhook.ProtocolError,
	} {
		res := s.Send(t.Context(), delivery(fmt.Sprintf("%s/%d", srv.URL, status)))
		if res.Outcome != want || res.Status != status {
			t.Errorf("status %d: Send = %s with %d, want %s", status, res.Outcome, res.Status, want)
		}
		if res.RetryAfter != 7*time.Second {
			t.Errorf("status %d: RetryAfter = %v, want 7s", status, res.RetryAfter)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var hits atomic.Int64
	target := server(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
	})
	res := loopback(t, webhook.SenderConfig{}).Send(t.Context(), delivery(srv.URL))
	if res.Outcome != webhook.Redirect || hits.Load() != 0 {
		t.Errorf("Send = %s, and the target was asked %d times; want redirect and 0", res.Outcome, hits.Load())
	}
}

func TestOutcomeOfBrokenServers(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	plain := server(t, func(http.ResponseWriter, *http.Request) {})
	for _, c := range []struct {
		name, url string
		want      webhook.Outcome
	}{
		{"nobody listens", "http://" + closed.Addr().String(), webhook.ConnectError},
		{"plain http behind https", strings.Replace(plain.URL, "http:", "https:", 1), webhook.TLSError},
		{"closed at once", raw(t, ""), webhook.ConnectionLost},
		{"closed within the head", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"), webhook.ConnectionLost},
		{"no HTTP", raw(t, "220 mail.example.com ESMTP\r\n"), webhook.ProtocolError},
		{"bad status", raw(t, "HTTP/1.1 2xx OK\r\n\r\n"), webhook.ProtocolError},
		{"switching protocols", raw(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), webhook.ProtocolError},
		{"huge head", raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 64<<10)+"\r\n\r\n"), webhook.ProtocolError},
		{"many heads", raw(t, strings.Repeat("HTTP/1.1 100 Continue\r\nX: "+strings.Repeat("a", 8<<10)+"\r\n\r\n", 100)), webhook.ProtocolError},
		{"body cut short", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), webhook.Delivered},
		{"broken chunk", raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), webhook.Delivered},
		{"error with its body cut short", raw(t, "HTTP/1.1 500 No\r\nContent-Length: 10\r\n\r\nabc"), webhook.Status5xx},
		{"two lengths", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), webhook.ProtocolError},
	} {
		res := loopback(t, webhook.SenderConfig{}).Send(t.Context(), delivery(c.url))
		if res.Outcome != c.want {
			t.Errorf("%s: Send = %+v, want %s", c.name, res, c.want)
		}
	}
}

// A slow receiver of each kind holds a worker no longer than the timeout.
func TestTimeout(t *testing.T) {
	until := make(chan struct{})
	wait := func() { <-until }
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes a connection and never a handshake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	drip := func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
		}
	}
	cases := []struct {
		name, url string
		want      webhook.Outcome
	}{
		{"no answer", rawFunc(t, func(net.Conn) { wait() }), webhook.Timeout},
		{"half a head", rawFunc(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nX"); wait() }), webhook.Timeout},
		{"body never ends", rawFunc(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
			wait()
		}), webhook.Delivered},
		{"body drips", rawFunc(t, drip), webhook.Delivered},
		{"error whose body never ends", rawFunc(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nab")
			wait()
		}), webhook.Status5xx},
		{"no handshake", "https://" + silent.Addr().String(), webhook.TLSError},
	}
	t.Cleanup(func() { close(until) })
	for _, c := range cases {
		for timeout := 100 * time.Millisecond; ; timeout *= 4 { // on a busy machine the head of an answer may come later
			start := time.Now()
			res := loopback(t, webhook.SenderConfig{Timeout: timeout}).Send(t.Context(), delivery(c.url))
			took := time.Since(start)
			if res.Outcome != c.want && (res.Outcome == webhook.Timeout || res.Outcome == webhook.ConnectTimeout) && timeout < 20*time.Second {
				continue
			}
			if res.Outcome != c.want {
				t.Errorf("%s: Send = %s, want %s", c.name, res.Outcome, c.want)
			}
			if took < timeout-10*time.Millisecond || took > timeout+20*time.Second {
				t.Errorf("%s: Send took %v, want about %v", c.name, took, timeout)
			}
			break
		}
	}
}

func TestDNSErrorAndTimeout(t *testing.T) {
	g := newGuard(t, webhook.GuardConfig{Resolver: fakeDNS(map[string][]netip.Addr{})})
	if got := newSender(t, webhook.SenderConfig{Guard: g}).Send(t.Context(), delivery("https://nowhere.example.com/")).Outcome; got != webhook.DNSError {
		t.Errorf("a name that does not exist: Send = %s, want %s", got, webhook.DNSError)
	}
	stuck := newGuard(t, webhook.GuardConfig{Resolver: &net.Resolver{PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }}})
	s := newSender(t, webhook.SenderConfig{Guard: stuck, Timeout: 50 * time.Millisecond})
	if got := s.Send(t.Context(), delivery("https://slow.example.com/")).Outcome; got != webhook.DNSError && got != webhook.ConnectTimeout {
		t.Errorf("a resolver that does not answer: Send = %s, want %s or %s", got, webhook.DNSError, webhook.ConnectTimeout)
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = quiet()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	names := fakeDNS(map[string][]netip.Addr{
		"example.com": {netip.MustParseAddr("127.0.0.1")}, "other.example.net": {netip.MustParseAddr("127.0.0.1")},
	})
	g := newGuard(t, webhook.GuardConfig{AllowPrivate: true, Resolver: names})
	trusting := newSender(t, webhook.SenderConfig{Guard: g, RootCAs: roots})
	for _, c := range []struct {
		name, host string
		s          *webhook.Sender
		want       webhook.Outcome
	}{
		{"certificate of the host", "example.com", trusting, webhook.Delivered},
		{"certificate of another host", "other.example.net", trusting, webhook.TLSError},
		{"unknown authority", "example.com", newSender(t, webhook.SenderConfig{Guard: g}), webhook.TLSError},
	} {
		if got := c.s.Send(t.Context(), delivery(fmt.Sprintf("https://%s:%d/", c.host, port))).Outcome; got != c.want {
			t.Errorf("%s: Send = %s, want %s", c.name, got, c.want)
		}
	}

	old := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = quiet()
	old.StartTLS()
	t.Cleanup(old.Close)
	roots = x509.NewCertPool()
	roots.AddCert(old.Certificate())
	if got := newSender(t, webhook.SenderConfig{Guard: g, RootCAs: roots}).Send(t.Context(), delivery(old.URL)).Outcome; got != webhook.TLSError {
		t.Errorf("TLS 1.1: Send = %s, want %s", got, webhook.TLSError)
	}
}

// Headers beside the scheme's go with each attempt, an endpoint's own in place of
// those for all, and neither where a receiver redirects to nor into the log of answers.
func TestHeadersOfOnesOwn(t *testing.T) {
	headers := func(pairs ...string) tasks.Headers {
		fields := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			fields[pairs[i]] = pairs[i+1]
		}
		h, err := tasks.NewHeaders(fields)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	got := make(chan http.Header, 1)
	thief := server(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
		case "/long": // cut within the second value
			fmt.Fprint(w, r.Header.Get("Authorization"), strings.Repeat(".", 4096-len(tasks.SecretMask)-20), r.Header.Get("X-Own"), strings.Repeat("x", 100_000))
		default:
			fmt.Fprint(w, "you said ", r.Header, " and ", strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		}
	})
	own := strings.Repeat("the value of my own ", 5) + "."
	s := loopback(t, webhook.SenderConfig{Headers: headers("x-all", "for-everybody", "x-own", "of-the-operator")})
	d := delivery(srv.URL)
	d.Headers = headers("X-OWN", own, "authorization", "Bearer hunter2-token")
	for _, path := range []string{"/", "/redirect", "/long"} {
		d.URL = srv.URL + path
		res := s.Send(t.Context(), d)
		h := <-got
		if h.Get("X-All") != "for-everybody" || h.Get("X-Own") != own || h.Get("Authorization") != "Bearer hunter2-token" ||
			h.Get("Content-Type") != "application/json" || h.Get("User-Agent") != "Sluice-Webhooks/1.0" || h.Get("Webhook-Id") != "msg_1" || h.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: the receiver got %v", path, h)
		}
		for _, secret := range []string{"for-everybody", "hunter2", "my own", "the value"} {
			if strings.Contains(res.Body, secret) {
				t.Errorf("%s: the log holds %q: %s", path, secret, res.Body)
			}
		}
		if path == "/redirect" && res.Outcome != webhook.Redirect || path != "/redirect" && !strings.Contains(res.Body, tasks.SecretMask) || len(res.Body) > 4096 {
			t.Errorf("%s: %s, %d bytes: %.200s", path, res.Outcome, len(res.Body), res.Body)
		}
	}
	if s.Send(t.Context(), delivery(srv.URL)); (<-got).Get("X-Own") != "of-the-operator" {
		t.Error("an address without headers of its own does not get those for all")
	}
}

func TestAnswerIsCapped(t *testing.T) {
	// 1 MiB of zeros in 1 KiB of gzip.
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 1<<20))
	z.Close()
	var written atomic.Int64
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			for chunk := bytes.Repeat([]byte("é"), 8<<10); ; {
				n, err := w.Write(chunk)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		case "/bomb":
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		case "/half":
			io.WriteString(w, strings.Repeat("a", 4095)+"€"+"tail")
		case "/binary":
			w.Write([]byte{'a', 0xff, 0xfe, 'b'})
		}
	})
	s := loopback(t, webhook.SenderConfig{})
	res := s.Send(t.Context(), delivery(srv.URL+"/endless"))
	if res.Outcome != webhook.Delivered || len(res.Body) > 4096 || len(res.Body) < 4090 || !utf8.ValidString(res.Body) {
		t.Errorf("an endless answer: %s with %d bytes kept, want delivered and 4096", res.Outcome, len(res.Body))
	}
	res = s.Send(t.Context(), delivery(srv.URL+"/bomb"))
	if res.Outcome != webhook.Delivered || res.Body != "" {
		t.Errorf("a compressed answer: %s with %d bytes kept, want delivered and none", res.Outcome, len(res.Body))
	}
	if res = s.Send(t.Context(), delivery(srv.URL+"/half")); res.Body != strings.Repeat("a", 4095) {
		t.Errorf("an answer cut within a character keeps %q at its end", res.Body[4090:])
	}
	if res = s.Send(t.Context(), delivery(srv.URL+"/binary")); res.Body != "a\uFFFDb" {
		t.Errorf("a binary answer is kept as %q", res.Body)
	}
	srv.Close() // waits for the handlers: nobody reads the endless answer any more
	if n := written.Load(); n > 16<<20 {
		t.Errorf("an endless answer was read for %d bytes", n)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := loopback(t, webhook.SenderConfig{})
	for range 20 {
		if res := s.Send(t.Context(), delivery(srv.URL)); res.Outcome != webhook.Delivered {
			t.Fatalf("Send = %s", res.Outcome)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("20 deliveries one after another took %d connections, want 1", n)
	}
}

func TestBusyHost(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := server(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	other := server(t, func(http.ResponseWriter, *http.Request) {})
	s := loopback(t, webhook.SenderConfig{MaxPerHost: 2})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if got := s.Send(context.Background(), delivery(srv.URL)).Outcome; got != webhook.Delivered {
				t.Errorf("one of the first two: Send = %s", got)
			}
		})
		<-arrived
	}
	if got := s.Send(t.Context(), delivery(srv.URL+"/other/path")).Outcome; got != webhook.Busy || got.Attempted() {
		t.Errorf("the third: Send = %s, which counts: %v; want busy, which does not", got, got.Attempted())
	}
	if got := s.Send(t.Context(), delivery(other.URL)).Outcome; got != webhook.Delivered {
		t.Errorf("another host meanwhile: Send = %s, want delivered", got)
	}
	close(release)
	wg.Wait()
	go func() { <-arrived }()
	if got := s.Send(t.Context(), delivery(srv.URL)).Outcome; got != webhook.Delivered {
		t.Errorf("after the first two: Send = %s, want delivered", got)
	}
}

func TestCanceled(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	srv := server(t, func(http.ResponseWriter, *http.Request) { close(arrived); <-release })
	defer close(release)
	s := loopback(t, webhook.SenderConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if got := s.Send(ctx, delivery(srv.URL)); got.Outcome != webhook.Canceled || got.Outcome.Attempted() {
		t.Errorf("Send = %s, want canceled, which does not count", got.Outcome)
	}
	if got := s.Send(ctx, delivery(srv.URL)); got.Outcome != webhook.Canceled {
		t.Errorf("Send with a context that has ended = %s, want canceled", got.Outcome)
	}
}

func TestInvalidIsNotSent(t *testing.T) {
	var hits atomic.Int64
	srv := server(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	s := loopback(t, webhook.SenderConfig{})
	for name, change := range map[string]func(*webhook.Delivery){
		"no key":        func(d *webhook.Delivery) { d.Keys = nil },
		"zero keys":     func(d *webhook.Delivery) { d.Keys = []webhook.Key{webhook.Secret{}, webhook.PrivateKey{}} },
		"no id":         func(d *webhook.Delivery) { d.ID = "" },
		"id with a dot": func(d *webhook.Delivery) { d.ID = "msg.1" },
		"id with CRLF":  func(d *webhook.Delivery) { d.ID = "msg\r\nX: y" },
		"broken UTF-8":  func(d *webhook.Delivery) { d.Body = []byte{'"', 0xff, '"'} },
	} {
		d := delivery(srv.URL)
		change(&d)
		if got := s.Send(t.Context(), d).Outcome; got != webhook.Invalid {
			t.Errorf("%s: Send = %s, want %s", name, got, webhook.Invalid)
		}
	}
	if hits.Load() != 0 {
		t.Errorf("%d invalid deliveries were sent", hits.Load())
	}
}

func TestMetrics(t *testing.T) {
	srv := server(t, func(http.ResponseWriter, *http.Request) {})
	reg := prometheus.NewRegistry()
	s := loopback(t, webhook.SenderConfig{Registerer: reg})
	s.Send(t.Context(), delivery(srv.URL))
	s.Send(t.Context(), delivery(srv.URL))
	s.Send(t.Context(), delivery("https://169.254.169.254/"))
	var want strings.Builder
	want.WriteString("# HELP sluice_webhook_attempts_total Webhook attempts by outcome.\n# TYPE sluice_webhook_attempts_total counter\n")
	for _, o := range webhook.Outcomes() {
		n := map[webhook.Outcome]int{webhook.Delivered: 2, webhook.BlockedURL: 1}[o]
		fmt.Fprintf(&want, "sluice_webhook_attempts_total{outcome=%q} %d\n", o, n)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want.String()), "sluice_webhook_attempts_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	if _, err := webhook.NewSender(webhook.SenderConfig{Registerer: reg}); err == nil {
		t.Error("a second sender on the same registry was not refused")
	}
}

func BenchmarkSend(b *testing.B) {
	srv := server(b, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	s := loopback(b, webhook.SenderConfig{})
	d := delivery(srv.URL)
	d.Body = []byte(`"` + strings.Repeat("x", 2046) + `"`)
	b.ReportAllocs()
	for b.Loop() {
		if res := s.Send(b.Context(), d); res.Outcome != webhook.Delivered {
			b.Fatalf("Send = %s", res.Outcome)
		}
	}
}
