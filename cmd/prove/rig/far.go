package rig

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// far is a way to a TCP server on which everything takes half of a round trip longer.
type far struct {
	to     string
	delay  time.Duration
	listen net.Listener
	mu     sync.Mutex
	open   map[net.Conn]bool
	wg     sync.WaitGroup
}

// startFar begins to listen on a free address for what is for another one.
func startFar(to string, roundTrip time.Duration) (*far, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a far Redis: %w", err)
	}
	f := &far{to: to, delay: roundTrip / 2, listen: l, open: map[net.Conn]bool{}}
	f.wg.Go(f.accept)
	return f, nil
}

func (f *far) addr() string { return f.listen.Addr().String() }

func (f *far) accept() {
	for {
		near, err := f.listen.Accept()
		if err != nil {
			return
		}
		there, err := net.Dial("tcp", f.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		f.mu.Lock()
		f.open[near], f.open[there] = true, true
		f.mu.Unlock()
		f.wg.Go(func() { f.carry(near, there) })
		f.wg.Go(func() { f.carry(there, near) })
	}
}

// piece is what was read at once, and when it arrives.
type piece struct {
	due   time.Time
	bytes []byte
}

// carry takes what is read at one end to the other, each piece after the delay.
func (f *far) carry(from, to net.Conn) {
	under := make(chan piece, 1024)
	f.wg.Go(func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.bytes); err != nil {
				break
			}
		}
		f.end(from, to)
		for range under { // until the reader has noticed
		}
	})
	defer close(under)
	for {
		b := make([]byte, 16<<10)
		n, err := from.Read(b)
		if n > 0 {
			under <- piece{time.Now().Add(f.delay), b[:n]}
		}
		if err != nil {
			return
		}
	}
}

func (f *far) end(conns ...io.Closer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(f.open, c.(net.Conn))
	}
}

// close ends every connection, and returns when nothing is carried any more.
func (f *far) close() error {
	err := f.listen.Close()
	f.mu.Lock()
	for c := range f.open {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
