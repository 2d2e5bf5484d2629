package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/worker/upstream"
)

// providerKey is what the workers sign in with at the fake provider.
const providerKey = "bench"

// provider is the strict fake provider in this process, so that the times of
// arrival are exact and on the same clock as those of submits.
type provider struct {
	addr    string
	fake    *upstream.Fake
	server  *http.Server
	ended   chan error
	arrived chan time.Time // of each call, while somebody reads it

	mu    sync.Mutex
	calls []upstream.Call
}

func startProvider(cfg upstream.FakeConfig) (*provider, error) {
	p := &provider{ended: make(chan error, 1), arrived: make(chan time.Time, 1)}
	cfg.RequireKey = providerKey
	cfg.OnCall = func(c upstream.Call) {
		p.mu.Lock()
		p.calls = append(p.calls, c)
		p.mu.Unlock()
	}
	var err error
	if p.fake, err = upstream.NewFake(cfg); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.fake.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	p.addr = l.Addr().String()
	p.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.arrived <- time.Now():
		default:
		}
		p.fake.ServeHTTP(w, r)
	})}
	go func() { p.ended <- p.server.Serve(l) }()
	return p, nil
}

func (p *provider) close() error {
	p.fake.Close()
	err := p.server.Close()
	if serveErr := <-p.ended; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// tally counts the calls that have ended, and those of them that were completed, refused for pace, or
// ended otherwise.
type tally struct {
	calls, completed, refused, other int
}

func (p *provider) tally() tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := tally{calls: len(p.calls)}
	for _, c := range p.calls {
		switch {
		case c.Completed:
			t.completed++
		case c.Status == http.StatusTooManyRequests:
			t.refused++
		default:
			t.other++
		}
	}
	return t
}

// accepted returns the accepted calls from the n-th call to have ended on, each
// with what amount says that it took.
func (p *provider) accepted(from int, amount func(upstream.Call) float64) []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []sent
	for _, c := range p.calls[from:] {
		if c.Accepted {
			out = append(out, sent{c.At, amount(c)})
		}
	}
	return out
}

// refusals says which limits were short and when, counted from the first call.
func (p *provider) refusals() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	short := map[string]int{}
	var first, from, to time.Time
	for _, c := range p.calls {
		if first.IsZero() || c.At.Before(first) {
			first = c.At
		}
		if c.Status != http.StatusTooManyRequests {
			continue
		}
		short[c.Refused]++
		if from.IsZero() || c.At.Before(from) {
			from = c.At
		}
		if c.At.After(to) {
			to = c.At
		}
	}
	if len(short) == 0 {
		return ""
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(short)) {
		fmt.Fprintf(&b, "%d for %s, ", short[name], name)
	}
	fmt.Fprintf(&b, "from %.1f to %.1f s", from.Sub(first).Seconds(), to.Sub(first).Seconds())
	return b.String()
}

// timeline prints what was accepted and refused in each stretch of time.
func (p *provider) timeline(w io.Writer, every time.Duration, amount func(upstream.Call) float64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.calls) == 0 {
		return nil
	}
	first := slices.MinFunc(p.calls, func(a, b upstream.Call) int { return a.At.Compare(b.At) }).At
	type stretch struct {
		calls, refused int
		used           float64
	}
	var all []stretch
	for _, c := range p.calls {
		i := int(c.At.Sub(first) / every)
		for len(all) <= i {
			all = append(all, stretch{})
		}
		if c.Accepted {
			all[i].calls++
			all[i].used += amount(c)
		} else {
			all[i].refused++
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "from\taccepted\tused\trefused\t")
	for i, s := range all {
		fmt.Fprintf(t, "%.0f s\t%d\t%.0f\t%d\t\n", (time.Duration(i) * every).Seconds(), s.calls, s.used, s.refused)
	}
	return t.Flush()
}

// count is how many calls have ended.
func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}

// await waits until n calls have ended.
func (p *provider) await(ctx context.Context, n int) error {
	return until(ctx, func() (bool, error) { return p.count() >= n, nil })
}

func oneRequest(upstream.Call) float64     { return 1 }
func inputTokens(c upstream.Call) float64  { return float64(c.InputTokens) }
func outputTokens(c upstream.Call) float64 { return float64(c.OutputTokens) }

// until asks again every few milliseconds, so seldom that it costs nothing.
func until(ctx context.Context, ready func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
