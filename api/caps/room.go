package caps

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api/fault"
)

// Config says how much there is of everything.
type Config struct {
	Connections  int   // open to the process; 0 means 10,000
	Requests     int   // under way; 0 means 10,000
	Streams      int   // long polls and event streams held; 0 means 10,000
	Uploads      int   // batches that are being sent; 0 means 256
	BodyBytes    int64 // of bodies in memory, decompressed; 0 means 96 MiB
	FailedTokens int   // of one address in a minute; 0 means 120

	TenantRequests int // of one tenant; 0 means 1,500
	TenantStreams  int // of one tenant; 0 means 1,000
	TenantUploads  int // of one tenant; 0 means 32

	// BodyPatience is how long a body waits for others to make room; 0 means 15 s.
	BodyPatience time.Duration
	// TrustedProxies are the networks whose X-Forwarded-For and -Proto count; empty: none.
	TrustedProxies []netip.Prefix
	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
}

// Room is what one process has for its callers.
type Room struct {
	connections int
	byAddress   *Places // connections
	requests    *Places
	streams     *Places
	uploads     *Places
	bodies      *Places
	memory      memory        // of large bodies
	patience    time.Duration // for bodies
	failures    *failures
	refused     *prometheus.CounterVec
}

// New returns a room that is empty, or the error of registering its metrics.
func New(c Config) (*Room, error) {
	places := func(most, usual, each, usually int) *Places {
		return NewPlaces(int64(cmp.Or(most, usual)), int64(cmp.Or(each, usually)))
	}
	bytes := cmp.Or(c.BodyBytes, 96<<20)
	r := &Room{
		connections: cmp.Or(c.Connections, 10_000),
		byAddress:   places(c.Connections, 10_000, c.Connections, 10_000),
		requests:    places(c.Requests, 10_000, c.TenantRequests, 1500),
		streams:     places(c.Streams, 10_000, c.TenantStreams, 1000),
		uploads:     places(c.Uploads, 256, c.TenantUploads, 32),
		bodies:      NewPlaces(bytes, bytes),
		memory:      memory{most: bytes},
		patience:    cmp.Or(c.BodyPatience, 15*time.Second),
		failures:    newFailures(cmp.Or(c.FailedTokens, 120), c.TrustedProxies),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_caps_refused_total", Help: "What was refused because too much was held or had failed already, by cap: connections, requests, streams, uploads, bodies or tokens.",
		}, []string{"cap"}),
	}
	for _, name := range []string{"connections", "requests", "streams", "uploads", "bodies", "tokens"} {
		r.refused.WithLabelValues(name)
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(r.refused); err != nil {
			return nil, fmt.Errorf("register the metrics of caps: %w", err)
		}
	}
	return r, nil
}

// Request counts a request that is under way until release is called.
func (r *Room) Request(tenant string) (release func(), err error) {
	return r.hold(r.requests, "requests", fault.TooManyRequests, tenant, "The tenant has too many requests under way: send fewer at once.")
}

// Stream counts a long poll or an event stream until release is called.
func (r *Room) Stream(tenant string) (release func(), err error) {
	return r.hold(r.streams, "streams", fault.TooManyStreams, tenant, "The tenant holds too many requests open: end some, or poll without waiting.")
}

// Upload counts a batch that is being sent until release is called.
func (r *Room) Upload(tenant string) (release func(), err error) {
	return r.hold(r.uploads, "uploads", fault.TooManyRequests, tenant, "The tenant is sending too many batches: send one after the other.")
}

func (r *Room) hold(p *Places, name, code, tenant, why string) (release func(), err error) {
	if !p.Take(tenant, 1) {
		return nil, r.refuse(p, name, code, tenant, why)
	}
	return func() { p.Give(tenant, 1) }, nil
}

// refuse is the fault of who has too much, or of a process that others fill.
func (r *Room) refuse(p *Places, name, code, tenant, why string) error {
	r.refused.WithLabelValues(name).Inc()
	f := fault.Fail(code, "%s", why)
	if !p.holds(tenant) {
		f = fault.Fail(fault.Overloaded, "This process has as many %s as it takes: come again in a moment.", name)
	}
	f.RetryAfter = time.Second + rand.N(2*time.Second)
	return f
}

// Body is what one request holds of the room for bodies. It is for one goroutine.
type Body struct {
	room   *Room
	tenant string
	most   int64 // that it may come to
	used   int64
	held   int64  // of the room: used, or more once it is large
	said   int64  // how long its caller says that it is; 0: nobody knows
	lent   []byte // of the room's memory; nil: none
}

// largeBody is how many bytes a body may use before it takes room for all that it may
// come to. If large ones took room bit by bit, several would fill it in part and wait
// for each other in vain.
const largeBody = 3 << 19

// firstBytes is the memory that a body begins with: what its caller only claims to send
// is not believed.
const firstBytes = 8 << 10

// believed is how many times what has come of a body its caller is believed to send: one
// of that length is in its place after one step, where doubling would leave twice its bytes
// for the collector.
const believed = 8

// Body returns an account of a request that holds nothing yet and uses at most so many
// bytes at a time.
func (r *Room) Body(tenant string, most int64) *Body {
	return &Body{room: r, tenant: tenant, most: most}
}

// Expect takes room for a body of n bytes before the first of them is read, if it is
// large, and waits a while for it.
func (b *Body) Expect(ctx context.Context, n int64) error {
	if b.said = n; n <= largeBody {
		return nil
	}
	return b.hold(ctx, min(step(n), max(n, b.most)))
}

// Grow returns memory for a body that is longer than have, with what have holds at its
// beginning. It takes room for all of that memory and not only for what comes to lie in
// it, and waits a while for it. Nothing else than [Body.Spent] ends its use.
func (b *Body) Grow(ctx context.Context, have []byte) ([]byte, error) {
	n := max(firstBytes, 2*int64(cap(have)))
	if fits := b.said + beyond; n < fits && fits <= believed*int64(cap(have)) {
		n = fits
	}
	large := n > largeBody
	if large {
		n = b.held // that was expected
		if n <= int64(cap(have)) {
			n = max(b.most, 2*int64(cap(have)))
		}
	}
	if n > b.held {
		if err := b.hold(ctx, n); err != nil {
			return nil, err
		}
	}
	b.used = n
	if !large {
		return append(make([]byte, 0, n), have...), nil
	}
	b.drop()
	b.lent = b.room.memory.lend(n)
	return append(b.lent, have...), nil
}

// Spent gives all back. The memory of the body has the next one's bytes soon: whoever
// says so knows that nothing reads it any more.
func (b *Body) Spent() {
	if b.lent != nil {
		b.room.memory.back(b.lent)
		b.lent = nil
	}
	b.Give(-1)
}

// drop leaves memory that may still be read to the collector.
func (b *Body) drop() {
	if b.lent != nil {
		b.room.memory.lost(int64(cap(b.lent)) - beyond)
		b.lent = nil
	}
}

// Take says that n bytes more are used, and waits a while for room.
func (b *Body) Take(ctx context.Context, n int64) error {
	used := b.used + n
	need := used
	if used > largeBody {
		need = max(used, b.most)
	}
	if used > b.held {
		if err := b.hold(ctx, need); err != nil {
			return err
		}
	}
	b.used = used
	return nil
}

// hold takes room until n bytes are held.
func (b *Body) hold(ctx context.Context, n int64) error {
	if !b.room.bodies.takeWithin(ctx, b.room.patience, b.tenant, n-b.held) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return b.room.refuse(b.room.bodies, "bodies", fault.TooManyRequests, b.tenant, "The tenant has too many bytes of bodies under way: send fewer or smaller requests at once.")
	}
	b.held = n
	return nil
}

// Give says that n bytes are used no more, or all where less are; less than 0 is all.
func (b *Body) Give(n int64) {
	if n < 0 || n > b.used {
		n = b.used
		b.drop()
	}
	b.used -= n
	if b.used <= largeBody && b.held > b.used {
		b.room.bodies.Give(b.tenant, b.held-b.used)
		b.held = b.used
	}
}

// Address is whose request it is: the peer's, or what a trusted proxy says. The zero
// address stands for one that cannot be told.
func (r *Room) Address(req *http.Request) netip.Addr { return r.failures.address(req) }

// HTTPS reports whether a request came to us, or to the trusted proxy before us, over
// TLS: that is what X-Forwarded-Proto says.
func (r *Room) HTTPS(req *http.Request) bool {
	if req.TLS != nil {
		return true
	}
	peer, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil || !r.failures.isTrusted(peer.Addr().Unmap().WithZone("")) {
		return false
	}
	// Of several proxies the first spoke with the browser.
	first, _, _ := strings.Cut(strings.Join(req.Header.Values("X-Forwarded-Proto"), ","), ",")
	return strings.EqualFold(strings.TrimSpace(first), "https")
}

// Failed counts a token that was refused, of a request or a sign-in, and returns how
// long its address has to wait before its next failure; 0 while there were few. It is
// not to be asked about a valid token.
func (r *Room) Failed(req *http.Request) time.Duration {
	wait := r.failures.failed(req)
	if wait > 0 {
		r.refused.WithLabelValues("tokens").Inc()
	}
	return wait
}
