package caps

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// failures counts by address who fails to show a valid token. It is asked only
// after a failure, so that a valid token is never slowed, wherever it comes from.
type failures struct {
	perMinute int
	trusted   []netip.Prefix

	mu          sync.Mutex
	now, before map[netip.Addr]*rate.Limiter // of this generation and the one before
	since       time.Time
}

// A generation of addresses is as old or as large as this at most. An address
// that is forgotten may fail anew, and within a minute it would be able to anyway.
const (
	generation     = time.Minute
	mostRemembered = 1 << 14
)

// newFailures returns a count that lets an address fail perMinute times a minute.
// The X-Forwarded-For of the trusted networks says whose request they pass on.
func newFailures(perMinute int, trusted []netip.Prefix) *failures {
	return &failures{perMinute: perMinute, trusted: trusted, now: map[netip.Addr]*rate.Limiter{}, before: map[netip.Addr]*rate.Limiter{}}
}

// failed counts a failure of the request's address, and returns how long that
// address has to wait before its next; 0 while it has failed seldom enough.
func (f *failures) failed(r *http.Request) time.Duration {
	addr := f.address(r)
	if addr.Is6() { // a subscriber has a whole /64
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now()
	if at.Sub(f.since) > generation || len(f.now) >= mostRemembered {
		f.before, f.now, f.since = f.now, map[netip.Addr]*rate.Limiter{}, at
	}
	l := f.now[addr]
	if l == nil {
		if l = f.before[addr]; l == nil {
			l = rate.NewLimiter(rate.Limit(float64(f.perMinute)/60), f.perMinute)
		}
		f.now[addr] = l
	}
	if l.AllowN(at, 1) {
		return 0
	}
	return max(time.Second, time.Duration((1-l.TokensAt(at))*float64(time.Minute)/float64(f.perMinute)))
}

// address is whose request it is: the peer's, or, where that is a trusted proxy,
// the last address in X-Forwarded-For that is none. The zero address stands for
// whatever cannot be told apart.
func (f *failures) address(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := peer.Addr().Unmap().WithZone("")
	if !f.isTrusted(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, ok := parseHop(strings.TrimSpace(hops[i]))
		if !ok {
			break // what stands before it, nobody vouches for
		}
		if addr = hop; !f.isTrusted(addr) {
			break
		}
	}
	return addr
}

// isTrusted reports whether an address is a proxy whose X-Forwarded-For counts.
func (f *failures) isTrusted(a netip.Addr) bool {
	for _, p := range f.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseHop reads an address that a proxy has written, some with a port.
func parseHop(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		p, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		a = p.Addr()
	}
	return a.Unmap().WithZone(""), true
}
