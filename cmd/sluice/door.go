package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/api/caps"
)

// silentMost is how long a connection that has said nothing is waited for. A proxy may
// have one ready that it never uses.
const silentMost = time.Second

// door is a listener that can be closed while connections come. One that the system
// has accepted already would be cut off with a request on it, and what a proxy has sent
// to it, it may not send again: so it lets in all who wait before it closes.
type door struct {
	net.Listener
	last chan net.Conn // who waited when it closed
	left atomic.Bool

	mu     sync.Mutex
	within map[net.Conn]time.Time // whose request is not answered, since when
}

func newDoor(l net.Listener) *door {
	return &door{Listener: l, last: make(chan net.Conn, 4096), within: map[net.Conn]time.Time{}}
}

// leave takes in who waits, up to the length of the system's own queue, and closes. It
// is called once.
func (d *door) leave() {
	d.left.Store(true)
	l, capped := d.Listener, (*caps.Listener)(nil)
	if c, ok := l.(*caps.Listener); ok {
		l, capped = c.Listener, c
	}
	waited := lastCall(l, cap(d.last))
	_ = d.Close()
	for _, c := range waited {
		if capped != nil {
			c = capped.Admit(c)
		}
		if c != nil {
			d.last <- c
		}
	}
	close(d.last)
}

// Accept returns the next connection, and after leave those that waited.
func (d *door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err == nil || !d.left.Load() {
		return c, err
	}
	if c, ok := <-d.last; ok {
		return c, nil
	}
	return nil, err
}

// became is a ConnState of [http.Server].
func (d *door) became(c net.Conn, state http.ConnState) {
	if capped, ok := d.Listener.(*caps.Listener); ok {
		capped.Became(c, state)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch state {
	case http.StateNew:
		d.within[c] = time.Now()
	case http.StateActive:
		d.within[c] = time.Time{}
	default:
		delete(d.within, c)
	}
}

// answered waits until nobody waits for an answer: a server that has begun to shut
// down drops a request that it reads then.
func (d *door) answered(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for d.busy() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, silent := range d.within {
		if silent.IsZero() || time.Since(silent) < silentMost {
			return true
		}
	}
	return false
}
