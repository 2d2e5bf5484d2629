package caps

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Listener accepts as many connections as its room has. One more makes one that is
// silent or idle go, of the address that has most; where all are busy it is told to
// come again.
type Listener struct {
	net.Listener
	room *Room

	mu   sync.Mutex
	open map[*conn]struct{}
	of   map[string]int // open ones, by address
}

// conn is a connection that counts.
type conn struct {
	net.Conn
	l       *Listener
	address string
	closing sync.Once

	// Of the listener's mutex.
	state http.ConnState
	since time.Time
}

// Listen returns l with the room's cap on connections. The server that serves it has
// to call [Listener.Became] as its ConnState.
func (r *Room) Listen(l net.Listener) *Listener {
	return &Listener{Listener: l, room: r, open: map[*conn]struct{}{}, of: map[string]int{}}
}

// Accept returns the next connection that there is room for.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.Admit(nc); c != nil {
			return c, nil
		}
	}
}

// Admit is Accept for a connection that somebody else has accepted; nil where there is
// no room for it, and it was told so.
func (l *Listener) Admit(nc net.Conn) net.Conn {
	if c := l.admit(nc); c != nil {
		return c
	}
	l.room.refused.WithLabelValues("connections").Inc()
	turnAway(nc)
	return nil
}

// Became notes what a connection does now; it is a ConnState of [http.Server].
func (l *Listener) Became(nc net.Conn, state http.ConnState) {
	if c, ok := nc.(*conn); ok {
		l.mu.Lock()
		c.state, c.since = state, time.Now()
		l.mu.Unlock()
	}
}

// admit counts a connection, or returns nil where there is no room for it.
func (l *Listener) admit(nc net.Conn) *conn {
	c := &conn{Conn: nc, l: l, since: time.Now()}
	trusted := false
	if peer, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		c.address = peer.Addr().Unmap().String()
		trusted = l.room.failures.isTrusted(peer.Addr().Unmap())
	}
	for {
		l.mu.Lock()
		free := l.room.connections - len(l.open)
		// A proxy stands for many, and has no share of its own.
		if free > 0 && (trusted || l.of[c.address] < free) {
			l.open[c] = struct{}{}
			l.of[c.address]++
			l.mu.Unlock()
			return c
		}
		idle := l.idleLocked()
		l.mu.Unlock()
		if idle == nil {
			return nil
		}
		_ = idle.Close()
	}
}

// idleLocked is the connection that is missed least: of the address that has most,
// one that has never said anything, else one between two requests, that longest.
func (l *Listener) idleLocked() (found *conn) {
	for c := range l.open {
		if c.state != http.StateNew && c.state != http.StateIdle {
			continue
		}
		if found == nil || c.before(found) {
			found = c
		}
	}
	return found
}

// before reports whether c goes before other.
func (c *conn) before(other *conn) bool {
	if a, b := c.l.of[c.address], c.l.of[other.address]; a != b {
		return a > b
	}
	if c.state != other.state {
		return c.state == http.StateNew
	}
	return c.since.Before(other.since)
}

func (c *conn) Close() error {
	c.closing.Do(func() {
		c.l.mu.Lock()
		defer c.l.mu.Unlock()
		delete(c.l.open, c)
		if c.l.of[c.address]--; c.l.of[c.address] <= 0 {
			delete(c.l.of, c.address)
		}
	})
	return c.Conn.Close()
}

// turnedAway is the answer to a connection too many, whatever it asks.
var turnedAway = func() []byte {
	const body = `{"type":"urn:sluice:problem:overloaded","title":"Too many connections","status":503,"code":"overloaded","detail":"This process has as many connections as it takes: come again in a moment."}` + "\n"
	return []byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\nContent-Type: application/problem+json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}()

// turnAway writes what fits into an empty send buffer, so that nobody waits for it.
func turnAway(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(turnedAway)
	_ = c.Close()
}
