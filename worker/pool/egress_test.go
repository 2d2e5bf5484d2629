package pool

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/egress"
	"github.com/sluicehq/sluice/worker/upstream"
)

// What fails on a way before the provider is reached is nobody's failure and no attempt,
// and another way serves; with no way open the pool is paused and says so, and it
// opens when one is.
func TestAWayThatFailsIsNoFailureOfTheProvider(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	first, second := newGateway(t), newGateway(t)
	ways := w.ways(first.url, second.url)
	p := w.by(ways, "one")
	if a, s := p.job("well", "gpt-a", "hello"); a.Outcome != tasks.Succeeded || s != Open {
		t.Fatal(a.Outcome, s)
	}
	first.close()
	for n := 0; ; n++ {
		a, s := p.job("job", "gpt-a", "hello")
		if a.Outcome == tasks.Succeeded {
			break
		}
		if a.Outcome == tasks.CutOff { // by a connection that had just been shut
			continue
		}
		if a.Cause.Kind != upstream.Egress || a.MaybeBilled || s != Open || n > 5 {
			t.Fatalf("call %d: %+v, standing %d", n, a, s)
		}
		if strings.Contains(a.Message, "127.0.0.1") || !strings.Contains(a.Cause.Detail, first.url) {
			t.Errorf("the owner is told %q, the operator %q", a.Message, a.Cause.Detail)
		}
	}
	if st := w.state(); st.Paused || ways.Changes() != 1 {
		t.Errorf("%+v after %d changes", st, ways.Changes())
	}
	second.close()
	eventually(t, "the pool is paused", func() bool { p.job("later", "gpt-a", "hello"); return w.state().Paused })
	if st := w.state(); st.Reason != "no way to the provider is open" || !strings.Contains(st.Detail, first.url) || !strings.Contains(st.Detail, second.url) {
		t.Errorf("it says %q and %q", st.Reason, st.Detail)
	}
	second.open()
	eventually(t, "the pool is open", func() bool { return !w.state().Paused })
	if a, s := p.job("well again", "gpt-a", "hello"); a.Outcome != tasks.Succeeded || s != Open {
		t.Error(a.Outcome, s)
	}
}

// ways are ways to the town.
func (w *town) ways(list ...string) *egress.Ways {
	w.t.Helper()
	c := egress.Config{}
	var err error
	if c.Address, c.TLS, err = upstream.Address(w.url, nil); err != nil {
		w.t.Fatal(err)
	}
	c.Transport = func(dial egress.Dial) *http.Transport { return upstream.Transport(nil, dial) }
	for _, s := range list {
		way, err := egress.Parse(s)
		if err != nil {
			w.t.Fatal(err)
		}
		c.Ways = append(c.Ways, way)
	}
	ways, err := egress.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(ways.Close)
	return ways
}

// gateway is a proxy that may be shut.
type gateway struct {
	url  string
	shut atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
	done  sync.WaitGroup
}

func newGateway(t *testing.T) *gateway {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{url: "http://" + l.Addr().String()}
	g.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if g.shut.Load() {
				c.Close()
				continue
			}
			g.keep(c)
			g.done.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); g.close(); g.done.Wait() })
	return g
}

func (g *gateway) keep(c net.Conn) { g.mu.Lock(); g.conns = append(g.conns, c); g.mu.Unlock() }

func (g *gateway) open() { g.shut.Store(false) }

func (g *gateway) close() {
	g.shut.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
}

func (g *gateway) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	ask, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	up, err := net.Dial("tcp", ask.Host)
	if err != nil {
		return
	}
	defer up.Close()
	g.keep(up)
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	g.done.Go(func() { _, _ = io.Copy(up, r); up.Close() })
	_, _ = io.Copy(c, up)
}
