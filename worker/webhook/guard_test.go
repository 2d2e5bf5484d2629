package webhook_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

// corpusLine is one URL of testdata/urls.txt.
type corpusLine struct {
	n               int
	save, dial, url string
}

// corpus reads testdata/urls.txt: the URLs, and the names that are known to DNS.
func corpus(t testing.TB) ([]corpusLine, map[string][]netip.Addr) {
	t.Helper()
	f, err := os.Open("testdata/urls.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []corpusLine
	names := map[string][]netip.Addr{}
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		text := scan.Text()
		if text == "" || text[0] == '#' {
			continue
		}
		col := strings.Split(text, "\t")
		if len(col) != 3 {
			t.Fatalf("testdata/urls.txt:%d: %d columns, want 3", n, len(col))
		}
		if col[0] == "dns" {
			for s := range strings.FieldsSeq(col[2]) {
				names[col[1]] = append(names[col[1]], netip.MustParseAddr(s))
			}
			continue
		}
		u := col[2]
		if strings.HasPrefix(u, `"`) {
			if u, err = strconv.Unquote(u); err != nil {
				t.Fatalf("testdata/urls.txt:%d: %v", n, err)
			}
		}
		lines = append(lines, corpusLine{n, col[0], col[1], u})
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return lines, names
}

// corpusConfig is the rule that the corpus is written for.
func corpusConfig(names map[string][]netip.Addr) webhook.GuardConfig {
	return webhook.GuardConfig{
		AllowHTTP:    true,
		OwnHosts:     []string{"API.sluice.example.com", "198.41.0.4"},
		OwnAddrs:     []netip.Addr{netip.MustParseAddr("185.2.2.2")},
		DenyPrefixes: []netip.Prefix{netip.MustParsePrefix("185.1.9.9/16")},
		Resolver:     fakeDNS(names),
	}
}

func corpusGuard(t testing.TB, names map[string][]netip.Addr) *webhook.Guard {
	t.Helper()
	return newGuard(t, corpusConfig(names))
}

func newGuard(t testing.TB, cfg webhook.GuardConfig) *webhook.Guard {
	t.Helper()
	g, err := webhook.NewGuard(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// fakeDNS answers from a table, in memory. It never opens a socket.
func fakeDNS(names map[string][]netip.Addr) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe() // not a PacketConn, so the resolver speaks DNS over TCP
		go func() {
			defer ours.Close()
			var size [2]byte
			for {
				if _, err := io.ReadFull(ours, size[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(ours, query); err != nil {
					return
				}
				answer := answerDNS(names, query)
				if _, err := ours.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
					return
				}
			}
		}()
		return theirs, nil
	}}
}

func answerDNS(names map[string][]netip.Addr, query []byte) []byte {
	var labels []string
	i := 12
	for query[i] != 0 {
		labels = append(labels, string(query[i+1:i+1+int(query[i])]))
		i += 1 + int(query[i])
	}
	kind := binary.BigEndian.Uint16(query[i+1:])
	question := query[12 : i+5]
	addrs, known := names[strings.ToLower(strings.Join(labels, "."))]
	var records []byte
	count := 0
	for _, a := range addrs {
		if (kind == 1) != a.Is4() || kind != 1 && kind != 28 {
			continue
		}
		count++
		records = append(records, 0xc0, 12)
		records = binary.BigEndian.AppendUint16(records, kind)
		records = append(records, 0, 1, 0, 0, 0, 0)
		records = binary.BigEndian.AppendUint16(records, uint16(len(a.AsSlice())))
		records = append(records, a.AsSlice()...)
	}
	flags := uint16(0x8580)
	if !known {
		flags |= 3 // no such name
	}
	answer := append([]byte{}, query[:2]...)
	answer = binary.BigEndian.AppendUint16(answer, flags)
	answer = append(answer, 0, 1)
	answer = binary.BigEndian.AppendUint16(answer, uint16(count))
	answer = append(answer, 0, 0, 0, 0)
	answer = append(answer, question...)
	return append(answer, records...)
}

var errNotDialled = errors.New("nothing is dialled in tests")

// recorder keeps what the guard said of each address and lets none be dialled.
type recorder struct {
	mu        sync.Mutex
	addresses []string
	denied    int
}

func (r *recorder) observe(_, address string, verdict error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addresses = append(r.addresses, address)
	if verdict != nil {
		r.denied++
		return verdict
	}
	return errNotDialled
}

// take returns the verdict on all addresses since the last call.
func (r *recorder) take() (verdict string, addresses []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	verdict = "mixed"
	switch {
	case len(r.addresses) == 0:
		verdict = "-"
	case r.denied == 0:
		verdict = "allowed"
	case r.denied == len(r.addresses):
		verdict = "denied"
	}
	addresses = r.addresses
	r.addresses, r.denied = nil, 0
	return verdict, addresses
}

func TestCorpusAtSaveTime(t *testing.T) {
	lines, names := corpus(t)
	if len(lines) < 120 {
		t.Fatalf("the corpus has %d URLs, want at least 120", len(lines))
	}
	// What a name means is not asked: a submit of many would be as many look-ups, and
	// its answer would tell what they mean inside.
	unasked := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("a name was looked up")
		return nil, errNotDialled
	}}
	cfg := corpusConfig(names)
	cfg.Resolver = unasked
	g, strict := newGuard(t, cfg), newGuard(t, webhook.GuardConfig{Resolver: unasked})
	for _, l := range lines {
		err := g.CheckURL(l.url)
		got := "ok"
		if err != nil {
			var rule webhook.Rule
			if !errors.As(err, &rule) {
				t.Errorf("line %d: CheckURL(%q) = %v, which is no Rule", l.n, l.url, err)
				continue
			}
			got = string(rule)
		}
		if got != l.save {
			t.Errorf("line %d: CheckURL(%q) = %s, want %s", l.n, l.url, got, l.save)
		}
		if strings.HasPrefix(l.url, "http:") && strict.CheckURL(l.url) != webhook.RuleScheme {
			t.Errorf("line %d: CheckURL(%q) without AllowHTTP = %v, want %v", l.n, l.url, strict.CheckURL(l.url), webhook.RuleScheme)
		}
	}
}

// Every URL is dialled although most were refused when they were saved: the
// dialer has to stop the hostile ones by itself.
func TestCorpusAtDialTime(t *testing.T) {
	lines, names := corpus(t)
	g := corpusGuard(t, names)
	var rec recorder
	g.Observe(rec.observe)
	transport := &http.Transport{DialContext: g.DialContext}
	defer transport.CloseIdleConnections()
	for _, l := range lines {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url, nil)
		if err == nil {
			resp, err := transport.RoundTrip(req)
			if err == nil {
				resp.Body.Close()
				t.Fatalf("line %d: %q was answered", l.n, l.url)
			}
		}
		verdict, addresses := rec.take()
		if verdict != l.dial {
			t.Errorf("line %d: %q dials %v: %s, want %s", l.n, l.url, addresses, verdict, l.dial)
		}
	}
}

// Through a Sender a refused URL reaches no address, and the outcome says which
// of the two checks it was.
func TestCorpusThroughSender(t *testing.T) {
	lines, names := corpus(t)
	g := corpusGuard(t, names)
	var rec recorder
	g.Observe(rec.observe)
	s := newSender(t, webhook.SenderConfig{Guard: g})
	for _, l := range lines {
		want := webhook.BlockedURL
		if l.save == "ok" {
			want = map[string]webhook.Outcome{
				"denied": webhook.BlockedAddress, "allowed": webhook.ConnectError, "-": webhook.DNSError,
				"mixed": webhook.ConnectError, // whichever address the resolver put first
			}[l.dial]
		}
		got := s.Send(t.Context(), delivery(l.url))
		verdict, addresses := rec.take()
		if l.dial == "mixed" && got.Outcome == webhook.BlockedAddress {
			want = got.Outcome
		}
		if got.Outcome != want {
			t.Errorf("line %d: Send to %q = %s, want %s", l.n, l.url, got.Outcome, want)
		}
		if want == webhook.BlockedURL && verdict != "-" {
			t.Errorf("line %d: %q was refused and still reached %v", l.n, l.url, addresses)
		}
		if strings.HasPrefix(string(got.Outcome), "blocked") && got.Latency != 0 {
			t.Errorf("line %d: a blocked attempt tells a latency of %v", l.n, got.Latency)
		}
	}
}

// What to do about a refused URL holds no part of it, and names a setting where an operator may
// allow it.
func TestARuleSaysWhatToDo(t *testing.T) {
	strict, err := webhook.NewGuard(webhook.GuardConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"http://hook.example/x":                             "webhooks.allow_http",
		"https://hook.example:8443/x":                       "webhooks.allow_private",
		"https://10.0.0.3/x":                                "webhooks.allow_hosts",
		"https://localhost/x":                               "webhooks.allow_hosts",
		"https://u:p@hook.example/x":                        "a header Authorization",
		"https://hook.example/x#y":                          "leave out the #",
		"https://hook.example/" + strings.Repeat("x", 3000): "2048 bytes",
		"https://höok.example/":                             "xn--",
		"https://0x7f.1/":                                   "a plain address",
		"hook":                                              "absolute https address",
	} {
		var rule webhook.Rule
		if err := strict.CheckURL(url); !errors.As(err, &rule) || !strings.Contains(rule.Words(), want) || strings.Contains(rule.Words(), "hook.") {
			t.Errorf("%s: %v, %q; want %q", url, err, rule.Words(), want)
		}
	}
}

func TestGuardLoosened(t *testing.T) {
	names := map[string][]netip.Addr{
		"receiver":          {netip.MustParseAddr("172.18.0.3")},
		"hooks.corp":        {netip.MustParseAddr("10.0.0.9")},
		"rebound.corp":      {netip.MustParseAddr("169.254.169.254")},
		"hooks.example.com": {netip.MustParseAddr("10.0.0.9")},
	}
	private := webhook.GuardConfig{AllowPrivate: true}
	privateHTTP := webhook.GuardConfig{AllowPrivate: true, AllowHTTP: true, OwnHosts: []string{"127.0.0.1", "localhost"}}
	hosts := webhook.GuardConfig{AllowHosts: []string{"Hooks.corp", "rebound.corp", "[::1]", "10.0.0.8"}}
	fenced := webhook.GuardConfig{AllowPrivate: true, DenyPrefixes: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("::ffff:172.18.0.0/112"),
	}}
	for _, c := range []struct {
		name, url  string
		cfg        webhook.GuardConfig
		save, dial string
	}{
		{"private", "https://127.0.0.1:9999/", private, "ok", "allowed"},
		{"private", "https://192.168.1.2:1/", private, "ok", "allowed"},
		{"private", "https://100.64.0.1/", private, "ok", "allowed"},
		{"private", "https://[::1]:65535/", private, "ok", "allowed"},
		{"private", "https://[fd12::1]/", private, "ok", "allowed"},
		{"private", "https://receiver:8443/", private, "ok", "allowed"},
		{"private", "https://hooks.corp/", private, "ok", "allowed"},
		{"private, public address, any port", "https://93.184.216.34:8443/", private, "ok", "allowed"},
		{"private, but http", "http://127.0.0.1:9999/", private, "scheme_not_allowed", "allowed"},
		{"private and http", "http://127.0.0.1:9999/", privateHTTP, "ok", "allowed"},
		{"private and http", "http://localhost:9999/", privateHTTP, "ok", "allowed"},
		{"private, port 0", "https://127.0.0.1:0/", private, "port_not_allowed", "allowed"},
		{"private, metadata", "https://169.254.169.254/", private, "address_not_allowed", "denied"},
		{"private, metadata", "https://100.100.100.200/", private, "address_not_allowed", "denied"},
		{"private, metadata", "https://[fd00:ec2::254]/", private, "address_not_allowed", "denied"},
		{"private, wire server", "https://168.63.129.16/", private, "address_not_allowed", "denied"},
		{"private, metadata by name", "https://metadata.google.internal/", private, "host_internal", "-"},
		{"private, metadata by any name", "https://rebound.corp/", private, "ok", "denied"},
		{"private, unspecified", "https://0.0.0.0/", private, "address_not_allowed", "denied"},
		{"private, multicast", "https://[ff02::1]/", private, "address_not_allowed", "denied"},
		{"private, numeric", "https://2130706433/", private, "host_numeric", "-"},
		{"private, denied by the operator", "https://10.0.0.9/", fenced, "address_not_allowed", "denied"},
		{"private, denied by the operator", "https://hooks.corp/", fenced, "ok", "denied"},
		{"private, denied by the operator as a mapped prefix", "https://receiver/", fenced, "ok", "denied"},
		{"allowed host", "https://hooks.corp:8443/", hosts, "ok", "allowed"},
		{"allowed host", "https://HOOKS.CORP/", hosts, "ok", "allowed"},
		{"allowed host, http", "http://hooks.corp/", hosts, "scheme_not_allowed", "allowed"},
		{"allowed address", "https://10.0.0.8:9000/", hosts, "ok", "allowed"},
		{"allowed address", "https://[0:0::1]:9000/", hosts, "ok", "allowed"},
		{"allowed host with a metadata address", "https://rebound.corp/", hosts, "ok", "denied"},
		{"another host with the same address", "https://hooks.example.com/", hosts, "ok", "denied"},
		{"another address", "https://10.0.0.9/", hosts, "address_not_allowed", "denied"},
	} {
		c.cfg.Resolver = fakeDNS(names)
		g := newGuard(t, c.cfg)
		var rec recorder
		g.Observe(rec.observe)
		got := "ok"
		if err := g.CheckURL(c.url); err != nil {
			got = string(err.(webhook.Rule))
		}
		if got != c.save {
			t.Errorf("%s: CheckURL(%s) = %s, want %s", c.name, c.url, got, c.save)
		}
		transport := &http.Transport{DialContext: g.DialContext}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := transport.RoundTrip(req); err == nil {
			resp.Body.Close()
			t.Fatalf("%s: %s was answered", c.name, c.url)
		}
		if verdict, addresses := rec.take(); verdict != c.dial {
			t.Errorf("%s: %s dials %v: %s, want %s", c.name, c.url, addresses, verdict, c.dial)
		}
	}
}

func TestGuardRefusesItsOwnInterfaces(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	g := newGuard(t, webhook.GuardConfig{})
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		host := ip.String()
		if ip.To4() == nil {
			host = "[" + host + "]"
		}
		if err := g.CheckURL("https://" + host + "/"); err != webhook.RuleAddress {
			t.Errorf("CheckURL of an address of this machine = %v, want %v", err, webhook.RuleAddress)
		}
	}
}

func TestNewGuardNamesEveryFault(t *testing.T) {
	_, err := webhook.NewGuard(webhook.GuardConfig{
		AllowHosts: []string{"good.example.com", "bad host", "https://x"}, OwnHosts: []string{"also bad"},
	})
	if err == nil {
		t.Fatal("NewGuard took hosts that are none")
	}
	for _, want := range []string{`"bad host"`, `"https://x"`, `"also bad"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("NewGuard = %q, which does not name %s", err, want)
		}
	}
	if _, err := webhook.NewGuard(webhook.GuardConfig{DenyPrefixes: []netip.Prefix{{}}}); err == nil {
		t.Error("NewGuard took a prefix that is not valid")
	}
}

// A name that a public address had when it was saved and a private one has now.
func TestRebinding(t *testing.T) {
	names := map[string][]netip.Addr{"rebind.example.com": {netip.MustParseAddr("93.184.216.34")}}
	g := newGuard(t, webhook.GuardConfig{Resolver: fakeDNS(names)})
	var rec recorder
	g.Observe(rec.observe)
	s := newSender(t, webhook.SenderConfig{Guard: g})
	if got := s.Send(t.Context(), delivery("https://rebind.example.com/")); got.Outcome != webhook.ConnectError {
		t.Fatalf("Send before = %s, want %s", got.Outcome, webhook.ConnectError)
	}
	names["rebind.example.com"] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if got := s.Send(t.Context(), delivery("https://rebind.example.com/")); got.Outcome != webhook.BlockedAddress {
		t.Errorf("Send after = %s, want %s", got.Outcome, webhook.BlockedAddress)
	}
}

// proxied is set for the child whose environment names a proxy: net/http reads
// those variables once in the life of a process.
const proxied = "SLUICE_TEST_PROXIED"

// The environment names a proxy that would see every request.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	if os.Getenv(proxied) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyOfTheEnvironmentIsNotUsed$", "-test.v")
		cmd.Env = append(os.Environ(), proxied+"=1",
			"HTTPS_PROXY=http://93.184.216.99:443", "HTTP_PROXY=http://93.184.216.99:80", "NO_PROXY=", "no_proxy=")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("with a proxy in the environment: %v\n%s", err, out)
		}
		return
	}
	g := newGuard(t, webhook.GuardConfig{AllowHTTP: true})
	var rec recorder
	g.Observe(rec.observe)
	// A client with the defaults does go by the proxy.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://93.184.216.34/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := http.ProxyFromEnvironment(req); err != nil || p == nil {
		t.Fatalf("the environment's proxy = %v, %v", p, err)
	}
	s := newSender(t, webhook.SenderConfig{Guard: g})
	for _, u := range []string{"https://93.184.216.34/", "http://93.184.216.34/"} {
		s.Send(t.Context(), delivery(u))
		_, addresses := rec.take()
		if len(addresses) != 1 || !strings.HasPrefix(addresses[0], "93.184.216.34:") {
			t.Errorf("Send to %s dialled %v", u, addresses)
		}
	}
}

// A Rule is told to a tenant: it must never hold a part of the URL.
func FuzzCheckURL(f *testing.F) {
	lines, names := corpus(f)
	rules := map[webhook.Rule]bool{}
	for _, l := range lines {
		f.Add(l.url)
		rules[webhook.Rule(l.save)] = true
	}
	g := corpusGuard(f, names)
	var rec recorder
	g.Observe(rec.observe)
	f.Fuzz(func(t *testing.T, raw string) {
		err := g.CheckURL(raw)
		if err != nil {
			if rule, ok := err.(webhook.Rule); !ok || !rules[rule] {
				t.Fatalf("CheckURL(%q) = %v, which is none of the rules", raw, err)
			}
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, raw, nil)
		if err != nil {
			t.Fatalf("CheckURL passed %q, which is no request: %v", raw, err)
		}
		// An address that passed by its text must be one that may be dialled.
		if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			port := req.URL.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
			}
			if conn, err := g.DialContext(ctx, "tcp", net.JoinHostPort(addr.String(), port)); err == nil {
				conn.Close()
				t.Fatalf("%q was dialled", raw)
			}
			if verdict, addresses := rec.take(); verdict != "allowed" {
				t.Fatalf("CheckURL passed %q, and the dialer says %s of %v", raw, verdict, addresses)
			}
		}
		if strings.ContainsAny(req.URL.Host, "@%\\ ") || slices.Contains([]string{"localhost", ""}, strings.ToLower(req.URL.Hostname())) {
			t.Fatalf("CheckURL passed %q with host %q", raw, req.URL.Host)
		}
	})
}
