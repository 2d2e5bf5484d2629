package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A way is an address of a proxy or direct; what it is called has no credentials, and
// an error quotes nothing.
func TestWaysAreReadStrictly(t *testing.T) {
	t.Parallel()
	for s, name := range map[string]string{
		"direct": "direct", "http://p": "http://p:80", "https://u:secret@p": "https://p:443",
		"socks5://u:secret@[::1]:99/": "socks5://[::1]:99", "http://u@p:3128": "http://p:3128",
	} {
		if w, err := Parse(s); err != nil || w.Name != name {
			t.Errorf("%s: %q, %v", s, w.Name, err)
		}
	}
	for _, s := range []string{
		"", "Direct", "p:3128", "ftp://u:secret@p", "socks5h://u:secret@p", "http://u:secret@", "http://:secret@p", "http://u:secret@p/secret",
		"http://u:secret@p?secret", "http://u:secret@p#secret", "http://u%3Ax:secret@p", "http://u:secret%0A@p", "http://u:secret@p:port",
		"http://" + strings.Repeat("u", 256) + ":secret@p",
	} {
		if w, err := Parse(s); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %q, %v", s, w.Name, err)
		}
	}
}

// A call goes through each kind of proxy, with its credentials, to a provider with and
// without TLS, and the proxy sees neither the call nor its key.
func TestCallsGoThroughEachKindOfProxy(t *testing.T) {
	t.Parallel()
	plain, secure := provider(t, httptest.NewServer), provider(t, httptest.NewTLSServer)
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, to := range []*httptest.Server{plain, secure} {
			p := newProxy(t, scheme, "user", "pass word")
			w := open(t, to, p, nil, scheme+"://user:pass%20word@"+p.addr)
			if err := call(w, to, ""); err != nil {
				t.Fatalf("%s to %s: %v", scheme, to.URL, err)
			}
			if p.tunnels.Load() != 1 {
				t.Errorf("%s: %d tunnels", scheme, p.tunnels.Load())
			}
			if to == secure && strings.Contains(p.seen(), "key-canary") {
				t.Errorf("%s saw the key", scheme)
			}
			wrong := open(t, to, p, nil, scheme+"://user:wrong@"+p.addr)
			var way *Error
			if err := call(wrong, to, ""); !errors.As(err, &way) || way.Shut || strings.Contains(err.Error(), "wrong") {
				t.Errorf("%s with a wrong password: %v", scheme, err)
			}
		}
	}
}

// A way that fails half of its calls, before or after a connection stands, is left
// within 20 calls; nearly all calls after that are answered, a change is not followed
// by another within the minute, and a call under way stays where it is.
func TestAWayThatFailsIsLeft(t *testing.T) {
	t.Parallel()
	to := provider(t, httptest.NewServer)
	for _, fault := range []string{"refuse", "cut"} {
		bad, good := newProxy(t, "http", "", ""), newProxy(t, "http", "", "")
		c := &clock{}
		w := open(t, to, bad, c.now, "http://"+bad.addr, "http://"+good.addr)
		long := begin(t, w, to)
		bad.fault(fault)
		n := 0
		for ; !w.State()[0].Left && n < 20; n++ {
			_ = call(w, to, "")
			w.list[0].transport.CloseIdleConnections()
		}
		if s := w.State(); !s[0].Left || !s[0].Used && !s[1].Used {
			t.Fatalf("%s: after %d calls: %+v", fault, n, s)
		}
		for range 100 {
			if err := call(w, to, ""); err != nil {
				t.Fatalf("%s: by the other way: %v", fault, err)
			}
		}
		if s := w.State(); !s[1].Used || w.Changes() != 1 {
			t.Errorf("%s: %+v after %d changes", fault, s, w.Changes())
		}
		if err := long(); err != nil {
			t.Errorf("%s: the call that was under way: %v", fault, err)
		}
	}
}

// The way is changed once a minute at most: meanwhile nothing is sent, and it is told why.
func TestTheWayIsChangedOnceAMinute(t *testing.T) {
	t.Parallel()
	to := provider(t, httptest.NewServer)
	first, second, third := newProxy(t, "http", "", ""), newProxy(t, "http", "", ""), newProxy(t, "http", "", "")
	c := &clock{}
	w := open(t, to, first, c.now, "http://"+first.addr, "http://"+second.addr, "http://"+third.addr)
	first.fault("refuse all")
	second.fault("refuse all")
	for range 2 * rowMost {
		_ = call(w, to, "")
	}
	for range 10 {
		c.add(time.Second)
		var way *Error
		if err := call(w, to, ""); !errors.As(err, &way) || !way.Shut || !strings.Contains(err.Error(), "a minute after the last change") {
			t.Fatalf("%v", err)
		}
	}
	if n := third.tunnels.Load(); n != 0 {
		t.Errorf("%d calls went by the third way within the minute", n)
	}
	c.add(changeEvery)
	if err := call(w, to, ""); err != nil || w.Changes() != 2 || third.tunnels.Load() != 1 {
		t.Errorf("%v after %d changes", err, w.Changes())
	}
}

// While no way is open calls are told so at once and not sent; each way is tried every
// few seconds, and the first that works is used. One that was left beside an open
// one is tried sparsely.
func TestWaysThatWereLeftComeBack(t *testing.T) {
	t.Parallel()
	to := provider(t, httptest.NewTLSServer)
	first, second := newProxy(t, "socks5", "", ""), newProxy(t, "http", "", "")
	c := &clock{}
	w := open(t, to, first, c.now, "socks5://"+first.addr, "http://"+second.addr)
	first.fault("refuse all")
	second.fault("refuse all")
	var way *Error
	for range rowMost + rowLast {
		if err := call(w, to, ""); !errors.As(err, &way) || way.Shut {
			t.Fatal(err)
		}
	}
	before := first.asked.Load() + second.asked.Load()
	for range 10 {
		if err := call(w, to, ""); !errors.As(err, &way) || !way.Shut || !strings.Contains(err.Error(), "all ways") {
			t.Fatal(err)
		}
	}
	if n := first.asked.Load() + second.asked.Load() - before; n > 2 {
		t.Errorf("closed ways were tried %d times at one moment", n)
	}
	second.fault("")
	c.add(probeShut)
	if err := call(w, to, ""); err != nil || !w.State()[1].Used || !w.State()[0].Left {
		t.Fatalf("%v: %+v", err, w.State())
	}
	before = first.asked.Load()
	for range 60 { // a minute
		c.add(time.Second)
		if err := call(w, to, ""); err != nil {
			t.Fatal(err)
		}
		w.trials.Wait()
	}
	if n := first.asked.Load() - before; n < 1 || n > 4 {
		t.Errorf("a way that was left was tried %d times in a minute", n)
	}
	first.fault("")
	c.add(probeLast)
	_ = call(w, to, "")
	w.trials.Wait()
	if s := w.State(); s[0].Left || !s[1].Used || s[1].Success < 0.99 {
		t.Errorf("%+v", s)
	}
}

// The only way stays in use while any call comes through, however many fail.
func TestTheLastWayIsUsedWhileItServes(t *testing.T) {
	t.Parallel()
	to := provider(t, httptest.NewServer)
	p := newProxy(t, "http", "", "")
	w := open(t, to, p, (&clock{}).now, "http://"+p.addr)
	p.fault("refuse")
	for range 60 {
		var way *Error
		if err := call(w, to, ""); err != nil && (!errors.As(err, &way) || way.Shut) {
			t.Fatal(err)
		}
		w.list[0].transport.CloseIdleConnections()
	}
	if w.State()[0].Left {
		t.Error("it was left")
	}
}

// What a provider answers, and what a caller gives up, says nothing of the way.
func TestAProvidersErrorsAreNotTheWays(t *testing.T) {
	t.Parallel()
	to := provider(t, httptest.NewServer)
	p := newProxy(t, "http", "", "")
	w := open(t, to, p, nil, "http://"+p.addr, "direct")
	for range 10 {
		if err := call(w, to, "/503"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, to.URL, nil)
		if _, err := w.RoundTrip(req); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		hasty, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		w.list[0].transport.CloseIdleConnections()
		if _, err := w.RoundTrip(req.WithContext(hasty)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
	}
	if s := w.State()[0]; s.Success != 1 || s.Left || !s.Used {
		t.Errorf("%+v", s)
	}
}

// clock stands still unless it is moved.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time      { return time.Unix(1e9, c.ns.Load()) }
func (c *clock) add(d time.Duration) { c.ns.Add(int64(d)) }

// provider answers 200, 503 below /503, and below /long half of its answer until it is
// asked for /end.
func provider(t *testing.T, start func(http.Handler) *httptest.Server) *httptest.Server {
	end := make(chan struct{}, 8)
	s := start(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/503":
			rw.WriteHeader(http.StatusServiceUnavailable)
		case "/end":
			end <- struct{}{}
		case "/long":
			_, _ = io.WriteString(rw, "half")
			rw.(http.Flusher).Flush()
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(rw, strings.Repeat("x", 64<<10))
	}))
	t.Cleanup(s.Close)
	return s
}

func open(t *testing.T, to *httptest.Server, p *proxyServer, now func() time.Time, ways ...string) *Ways {
	t.Helper()
	c := Config{Address: to.Listener.Addr().String(), Roots: p.roots, Now: now}
	trust := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}
	if to.TLS != nil {
		trust.RootCAs.AddCert(to.Certificate())
		c.TLS = trust
	}
	c.Transport = func(dial Dial) *http.Transport {
		return &http.Transport{DialContext: dial, TLSClientConfig: trust}
	}
	for _, s := range ways {
		way, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Ways = append(c.Ways, way)
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// call makes one call and reads its answer.
func call(w *Ways, to *httptest.Server, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL+path, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("X-Api-Key", "key-canary")
	resp, err := w.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// begin begins a long call, and returns what ends it.
func begin(t *testing.T, w *Ways, to *httptest.Server) func() error {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, to.URL+"/long", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		defer resp.Body.Close()
		if err := call(w, to, "/end"); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
}

// proxyServer is a proxy of a scheme. Its faults are "refuse" and "cut", of each second
// tunnel from then on, and "refuse all".
type proxyServer struct {
	addr, scheme, user, password string
	roots                        *x509.CertPool
	tunnels, asked               atomic.Int64

	mu    sync.Mutex
	bad   string
	turn  int
	heard strings.Builder
	conns []net.Conn
	done  sync.WaitGroup
}

func newProxy(t *testing.T, scheme, user, password string) *proxyServer {
	t.Helper()
	p := &proxyServer{scheme: scheme, user: user, password: password}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	if scheme == "https" {
		made := httptest.NewTLSServer(nil) // its certificate alone is wanted
		p.roots = x509.NewCertPool()
		p.roots.AddCert(made.Certificate())
		l = tls.NewListener(l, made.TLS)
		made.Close()
	}
	p.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c)
			p.mu.Unlock()
			p.done.Go(func() { defer c.Close(); p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.done.Wait()
	})
	return p
}

func (p *proxyServer) fault(s string) { p.mu.Lock(); p.bad, p.turn = s, 0; p.mu.Unlock() }

func (p *proxyServer) seen() string { p.mu.Lock(); defer p.mu.Unlock(); return p.heard.String() }

// fails is the fault of the next tunnel.
func (p *proxyServer) fails() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	if p.bad == "refuse all" || p.turn%2 == 0 {
		return strings.TrimSuffix(p.bad, " all")
	}
	return ""
}

func (p *proxyServer) serve(c net.Conn) {
	p.asked.Add(1)
	r := bufio.NewReader(c)
	target, accept := p.head(c, r)
	if target == "" {
		return
	}
	bad := p.fails()
	if bad == "refuse" {
		accept(false)
		return
	}
	up, err := net.Dial("tcp", target)
	if err != nil {
		accept(false)
		return
	}
	defer up.Close()
	p.mu.Lock()
	p.conns = append(p.conns, up)
	p.mu.Unlock()
	p.tunnels.Add(1)
	accept(true)
	p.done.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := r.Read(b)
			p.mu.Lock()
			p.heard.Write(b[:n])
			p.mu.Unlock()
			if _, werr := up.Write(b[:n]); err != nil || werr != nil {
				up.Close()
				return
			}
		}
	})
	if bad == "cut" {
		_, _ = io.CopyN(c, up, 1000)
		return
	}
	_, _ = io.Copy(c, up)
}

// head reads what a client asks of the proxy; the target is "" where its credentials are wrong.
func (p *proxyServer) head(c net.Conn, r *bufio.Reader) (target string, accept func(bool)) {
	if p.scheme == "socks5" {
		return p.socks(c, r)
	}
	req, err := http.ReadRequest(r)
	if err != nil {
		return "", nil
	}
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.user+":"+p.password)); p.user != "" && req.Header.Get("Proxy-Authorization") != want {
		_, _ = io.WriteString(c, "HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n")
		return "", nil
	}
	return req.Host, func(ok bool) {
		if ok {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n")
	}
}

// socks reads RFC 1928 and 1929.
func (p *proxyServer) socks(c net.Conn, r *bufio.Reader) (string, func(bool)) {
	read := func(n int) []byte { b := make([]byte, n); _, _ = io.ReadFull(r, b); return b }
	read(int(read(2)[1]))
	if p.user == "" {
		_, _ = c.Write([]byte{5, 0})
	} else {
		_, _ = c.Write([]byte{5, 2})
		user := string(read(int(read(2)[1])))
		if password := string(read(int(read(1)[0]))); user != p.user || password != p.password {
			_, _ = c.Write([]byte{1, 1})
			return "", nil
		}
		_, _ = c.Write([]byte{1, 0})
	}
	host := ""
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	port := binary.BigEndian.Uint16(read(2))
	return net.JoinHostPort(host, strconv.Itoa(int(port))), func(ok bool) {
		code := byte(4)
		if ok {
			code = 0
		}
		_, _ = c.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
	}
}
