package sdks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// door is the one address that SDKs know: what comes in goes to an API that is there,
// as behind a balancer of connections.
type door struct {
	listen net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	to    []string // the APIs' addresses
	turn  int
	open  map[net.Conn]bool
	marks map[string]*cut
}

// cut is a connection that is to be cut.
type cut struct {
	after string // what the API has sent by then; "": nothing is waited for
	hit   bool
	far   net.Conn // its way to the API, once the mark has passed
	near  net.Conn
}

func openDoor() (*door, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{listen: l, open: map[net.Conn]bool{}, marks: map[string]*cut{}}
	d.wg.Go(d.accept)
	return d, nil
}

func (d *door) addr() string { return d.listen.Addr().String() }

// lead says where connections go from now on; they take turns.
func (d *door) lead(to ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to = to
}

func (d *door) accept() {
	for {
		near, err := d.listen.Accept()
		if err != nil {
			return
		}
		d.wg.Go(func() { d.carry(near) })
	}
}

func (d *door) dial() net.Conn {
	d.mu.Lock()
	to := d.to
	d.turn++
	turn := d.turn
	d.mu.Unlock()
	for i := range to {
		if far, err := net.Dial("tcp", to[(turn+i)%len(to)]); err == nil {
			return far
		}
	}
	return nil
}

func (d *door) carry(near net.Conn) {
	far := d.dial()
	if far == nil {
		_ = near.Close()
		return
	}
	d.mu.Lock()
	d.open[near], d.open[far] = true, true
	d.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { d.copy(far, near, far, near, true) })
	both.Go(func() { d.copy(near, far, far, near, false) })
	both.Wait()
	d.mu.Lock()
	delete(d.open, near)
	delete(d.open, far)
	d.mu.Unlock()
}

// copy takes what is read at one end to the other, and looks for marks.
func (d *door) copy(to, from, far, near net.Conn, asks bool) {
	defer near.Close()
	defer far.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if asks {
				d.seen(b[:n], far, near)
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
			if !asks && d.sent(b[:n], far) {
				abort(near)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// seen notes on which connection the first request with a mark comes.
func (d *door) seen(b []byte, far, near net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for mark, c := range d.marks {
		if c.far == nil && bytes.Contains(b, []byte(mark)) {
			c.far, c.near = far, near
		}
	}
}

// sent reports whether the connection is to be cut after what the API has sent.
func (d *door) sent(b []byte, far net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.marks {
		if c.far == far && !c.hit && c.after != "" && bytes.Contains(b, []byte(c.after)) {
			c.hit = true
			return true
		}
	}
	return false
}

// mark has the connection of the first request with these bytes found, and cut once the
// API has sent after, unless that is "".
func (d *door) mark(bytes, after string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks[bytes] = &cut{after: after}
}

// cut cuts the connection of a mark, and reports whether it was there.
func (d *door) cut(mark string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.marks[mark]
	if c == nil || c.near == nil || c.hit {
		return false
	}
	c.hit = true
	abort(c.near)
	return true
}

// abort ends a connection as a machine that is gone does: with a reset.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

func (d *door) close() error {
	err := d.listen.Close()
	d.mu.Lock()
	for c := range d.open {
		_ = c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// awaits waits until a request with a mark has come.
func (d *door) awaits(ctx context.Context, mark string) error {
	return rig.Until(ctx, time.Minute, mark+" has come", func(context.Context) (bool, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.marks[mark] != nil && d.marks[mark].near != nil, nil
	})
}

// forget forgets all marks.
func (d *door) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.marks)
}
