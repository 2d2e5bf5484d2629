package redistest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Proxy stands in front of a Redis. It can be told to answer in its place, to reset
// connections and to lose replies.
type Proxy struct {
	l    net.Listener
	to   string // the Redis's socket
	live sync.WaitGroup

	mu    sync.Mutex
	line  string // answers every command, if not empty
	reset bool   // connections are reset, new ones too
	lose  func(command, reply string) bool
	conns map[net.Conn]struct{}
}

// Before returns a proxy in front of a server, or of none where that is nil. It ends
// with the test.
func Before(tb testing.TB, s *Server) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{l: l, conns: map[net.Conn]struct{}{}}
	if s != nil {
		p.to = s.Socket()
	}
	p.live.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.live.Go(func() { p.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.live.Wait()
	})
	return p
}

// URL returns its address as Sluice's redis.url takes it.
func (p *Proxy) URL() string { return "redis://" + p.l.Addr().String() + "/0" }

// Answer makes the proxy answer every command so; "": what Redis says.
func (p *Proxy) Answer(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = line
}

// Reset makes it reset every connection, as a load balancer without a backend does.
func (p *Proxy) Reset(on bool) {
	p.mu.Lock()
	p.reset = on
	p.mu.Unlock()
	if on {
		p.cut()
	}
}

// Lose makes it pass commands on and end the connection in place of the reply, where
// lose says so, one command at a time; nil: nowhere.
func (p *Proxy) Lose(lose func(command, reply string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = lose
}

// Client returns a new client of it, closed when the test ends.
func (p *Proxy) Client(tb testing.TB) *redis.Client {
	tb.Helper()
	rdb := redis.NewClient(&redis.Options{
		Addr: p.l.Addr().String(), DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// cut resets all connections.
func (p *Proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if c, ok := c.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
		_ = c.Close()
	}
}

// keep notes a connection, and closes it when all are to be reset.
func (p *Proxy) keep(c net.Conn) (forget func()) {
	p.mu.Lock()
	p.conns[c] = struct{}{}
	reset := p.reset
	p.mu.Unlock()
	if reset {
		p.cut()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		_ = c.Close()
	}
}

// serve passes one command after the other on. From a subscription on, both
// directions flow freely.
func (p *Proxy) serve(client net.Conn) {
	defer p.keep(client)()
	var redis net.Conn
	if p.to != "" {
		var err error
		if redis, err = net.Dial("unix", p.to); err != nil {
			return
		}
		defer p.keep(redis)()
	}
	asked, said := bufio.NewReader(client), bufio.NewReader(redis)
	for {
		command, err := frame(asked)
		if err != nil {
			return
		}
		p.mu.Lock()
		line := p.line
		p.mu.Unlock()
		if line != "" {
			if _, err := io.WriteString(client, line+"\r\n"); err != nil {
				return
			}
			continue
		}
		if _, err := redis.Write(command); err != nil {
			return
		}
		if words := bytes.Fields(command); len(words) > 2 && strings.EqualFold(string(words[2]), "subscribe") {
			p.live.Go(func() {
				_, _ = io.Copy(redis, asked)
				_ = redis.Close()
			})
			_, _ = io.Copy(client, said)
			return
		}
		reply, err := frame(said)
		if err != nil {
			return
		}
		p.mu.Lock()
		lose := p.lose
		p.mu.Unlock()
		if lose != nil && lose(string(command), string(reply)) {
			return
		}
		if _, err := client.Write(reply); err != nil {
			return
		}
	}
}

// frame reads one value of Redis's protocol as it stands.
func frame(r *bufio.Reader) ([]byte, error) {
	out, err := r.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(out[1:])))
	switch out[0] {
	case '$', '=', '!':
		if n >= 0 {
			body := make([]byte, n+2)
			_, err = io.ReadFull(r, body)
			out = append(out, body...)
		}
	case '%':
		n *= 2
		fallthrough
	case '*', '~', '>':
		for range n {
			part, err := frame(r)
			if err != nil {
				return nil, err
			}
			out = append(out, part...)
		}
	}
	return out, err
}
