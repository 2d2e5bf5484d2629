package caps

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
)

func TestWhoseForwardedAddressCounts(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	f := newFailures(3, trusted)
	for _, c := range []struct {
		peer string
		xff  []string
		want string
	}{
		{"192.0.2.1:999", nil, "192.0.2.1"},
		{"192.0.2.1:999", []string{"198.51.100.7"}, "192.0.2.1"}, // anybody's word
		{"10.0.0.1:999", nil, "10.0.0.1"},
		{"10.0.0.1:999", []string{"198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"203.0.113.1, 198.51.100.7"}, "198.51.100.7"}, // the first is the caller's own word
		{"10.0.0.1:999", []string{"203.0.113.1", "198.51.100.7, 10.9.9.9"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"198.51.100.7:4711"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		{"[::ffff:10.0.0.1]:999", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"10.0.0.1:999", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"[fd00::1]:999", []string{"10.1.1.1"}, "10.1.1.1"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.xff}}
		if got := f.address(r).String(); got != c.want {
			t.Errorf("a request from %s, forwarded for %q, is of %s, want %s", c.peer, c.xff, got, c.want)
		}
	}
}

func TestWhoseForwardedSchemeCounts(t *testing.T) {
	t.Parallel()
	r := &Room{failures: newFailures(3, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})}
	for _, c := range []struct {
		peer  string
		proto []string
		tls   bool
		want  bool
	}{
		{peer: "10.0.0.1:999", proto: []string{"https"}, want: true},
		{peer: "10.0.0.1:999", proto: []string{"HTTPS, http"}, want: true}, // the first spoke with the browser
		{peer: "10.0.0.1:999", proto: []string{"http", "https"}},
		{peer: "10.0.0.1:999"},
		{peer: "192.0.2.1:999", proto: []string{"https"}}, // anybody's word
		{peer: "192.0.2.1:999", tls: true, want: true},
		{peer: "@", proto: []string{"https"}},
	} {
		req := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-Proto": c.proto}}
		if c.tls {
			req.TLS = &tls.ConnectionState{}
		}
		if got := r.HTTPS(req); got != c.want {
			t.Errorf("a request from %s, forwarded for %q: https %t, want %t", c.peer, c.proto, got, c.want)
		}
	}
}

func TestFailuresOfOneAddressSlowNoOther(t *testing.T) {
	t.Parallel()
	f := newFailures(3, nil)
	from := func(peer string) *http.Request { return &http.Request{RemoteAddr: peer} }
	for i := range 10 {
		if wait := f.failed(from(fmt.Sprintf("[2001:db8::%d]:1", i+1))); (wait == 0) != (i < 3) {
			t.Errorf("failure %d of a network waits %s", i+1, wait)
		}
	}
	if wait := f.failed(from("[2001:db8:0:1::1]:1")); wait != 0 {
		t.Errorf("the first failure of another network waits %s", wait)
	}
	if wait := f.failed(from("192.0.2.1:1")); wait != 0 {
		t.Errorf("the first failure of another address waits %s", wait)
	}
}
