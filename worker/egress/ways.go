// Package egress reaches a provider by the ways that are listed for it, directly or
// through proxies, so that one of them may fail.
//
// It promises that nothing is ever sent by a way that is not listed, that one way is in
// use at a time and is changed at most once a minute, that a way which fails is left
// and tried sparsely until it works again, and that a call under way stays where it is.
// What goes wrong on a way is told as that ([Error]), and not as the provider's failure.
//
// It never sends a call twice and never by another way than the one in use: whoever
// waits for a call asks again. A proxy is asked for a tunnel and sees neither key nor
// prompt of a provider that speaks TLS. It raises no allowance.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// changeEvery is the shortest time between two changes of the way in use.
	changeEvery = time.Minute
	// probeFirst is until a way that was left is tried again, doubled each time that it
	// has to be left anew, to probeLast. While no way is open they are tried each probeShut.
	probeFirst = 15 * time.Second
	probeLast  = 10 * time.Minute
	probeShut  = 5 * time.Second
	// kept is what each call leaves of the counts of those before it: they tell of the last
	// twenty or so.
	kept = 0.95
	// A way is left after rowMost failures in a row, or when of its last calls a quarter
	// failed, and three at least. The last that is open is left after rowLast in a row.
	rowMost  = 3
	rowLast  = 5
	badLeast = 2.8
	badShare = 0.25
	// goodLong is what good comes to when some fourteen calls in a row were well.
	goodLong = 10
)

// Dial opens a connection, as [net.Dialer.DialContext] does.
type Dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// Config is what Ways are made of.
type Config struct {
	// Ways are the ways, in the order in which they are preferred where nothing else
	// tells them apart; at least one.
	Ways []Way
	// Address is the provider's host and port, to which a way that was left is tried, and TLS
	// how that speaks; nil: without.
	Address string
	TLS     *tls.Config
	// Transport makes the transport of one way, whose connections dial opens.
	Transport func(dial Dial) *http.Transport
	// Roots vouch for proxies with TLS; nil: the system does.
	Roots *x509.CertPool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Log is told of ways that are left, come back or come into use; nil: nobody is.
	Log *slog.Logger
}

// Ways are the ways to one provider. It is an [http.RoundTripper], safe for concurrent use.
type Ways struct {
	address string
	tls     *tls.Config
	roots   *x509.CertPool
	now     func() time.Time
	log     *slog.Logger

	mu      sync.Mutex
	list    []*way
	used    *way
	changed time.Time // zero: never
	changes int64
	trials  sync.WaitGroup
	closed  context.Context
	close   context.CancelFunc
}

// way is a way and how it has done.
type way struct {
	Way
	transport *http.Transport

	good, bad float64       // how its last calls ended, each counting less than the next
	row       int           // failures since the last that was well
	last      error         // the latest of them
	latency   time.Duration // until a connection stands, smoothed; 0: not known
	calls     [results]int64

	left   bool          // it is not to be used
	times  int           // how often it was left, without a row of calls that were well between
	again  time.Time     // when a way that was left is to be tried
	trying chan struct{} // closed at the end of the trial under way; nil: none is
}

// result is how a call by a way ended.
type result int

const (
	answered result = iota // a status came
	failed                 // none did
	broken                 // the answer broke off; the call was counted as answered, too
	results
)

// String is the result as metrics have it.
func (r result) String() string { return [...]string{"answered", "failed", "broken"}[r] }

// New returns the ways to a provider.
func New(c Config) (*Ways, error) {
	if len(c.Ways) == 0 {
		return nil, errors.New("egress: there is no way to the provider")
	}
	w := &Ways{address: c.Address, tls: c.TLS, roots: c.Roots, now: c.Now, log: c.Log}
	if w.now == nil {
		w.now = time.Now
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.closed, w.close = context.WithCancel(context.Background())
	for _, listed := range c.Ways {
		k := &way{Way: listed}
		k.transport = c.Transport(func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.dial(ctx, k, network, addr)
		})
		w.list = append(w.list, k)
	}
	w.used = w.list[0]
	return w, nil
}

// Close drops the idle connections and ends the trials of ways.
func (w *Ways) Close() {
	w.mu.Lock()
	w.close() // no trial begins behind it
	w.mu.Unlock()
	w.trials.Wait()
	for _, k := range w.list {
		k.transport.CloseIdleConnections()
	}
}

// dial opens a connection by a way, and notes how long that takes.
func (w *Ways) dial(ctx context.Context, k *way, network, addr string) (net.Conn, error) {
	began := w.now()
	conn, err := k.dial(ctx, network, addr, w.roots)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	took := max(w.now().Sub(began), time.Microsecond)
	if k.latency == 0 {
		k.latency = took
	}
	k.latency += (took - k.latency) / 8
	return conn, nil
}

// choose returns the way to use now. Where there is none it tries those that were left
// when their time has come, and else says what each failed of.
func (w *Ways) choose(ctx context.Context) (*way, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.change()
	if w.used.left {
		w.tryAll(ctx)
		w.change()
	}
	if w.used.left {
		return nil, &Error{Way: w.used.Name, Shut: true, Err: w.shut()}
	}
	for _, k := range w.list {
		if k.left {
			w.try(k)
		}
	}
	return w.used, nil
}

// change takes another way into use where the present one was left.
func (w *Ways) change() {
	now := w.now()
	if !w.used.left || !w.changed.IsZero() && now.Sub(w.changed) < changeEvery {
		return
	}
	best := w.best()
	if best == nil {
		return
	}
	w.log.Warn("another way to the provider is used", "way", best.Name, "left", w.used.Name)
	w.used.transport.CloseIdleConnections()
	w.used, w.changed, w.changes = best, now, w.changes+1
}

// best is the way to change to: of those that are open the one whose calls went best, to
// a twentieth, then the quickest, then the first. nil: none is open.
func (w *Ways) best() (best *way) {
	for _, k := range w.list {
		switch {
		case k.left:
		case best == nil, k.share() > best.share(),
			k.share() == best.share() && k.latency > 0 && k.latency < best.latency:
			best = k
		}
	}
	return best
}

// share is the part of a way's last calls that went well, in twentieths of one.
func (k *way) share() float64 {
	if k.good+k.bad == 0 {
		return 1
	}
	return math.Round(20*k.good/(k.good+k.bad)) / 20
}

// open counts the ways that are not left, but for one.
func (w *Ways) open(but *way) (n int) {
	for _, k := range w.list {
		if k != but && !k.left {
			n++
		}
	}
	return n
}

// shut says why no way is open.
func (w *Ways) shut() error {
	var failed []string
	for _, k := range w.list {
		if k.left {
			failed = append(failed, fmt.Sprintf("%s (%v)", k.Name, k.last))
		}
	}
	if len(failed) < len(w.list) {
		return fmt.Errorf("these ways fail: %s; the next is used a minute after the last change", strings.Join(failed, ", "))
	}
	return fmt.Errorf("all ways to the provider fail: %s", strings.Join(failed, ", "))
}

// went notes how a call by a way ended, err nil when it was answered, and reports whether
// the way is left.
func (w *Ways) went(k *way, how result, err error) (left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k.calls[how]++
	if how == broken {
		k.good = max(0, k.good-1) // it had been taken for answered
	}
	k.good, k.bad = kept*k.good, kept*k.bad
	if how == answered {
		k.good, k.row = k.good+1, 0
		if k.good > goodLong {
			k.times = 0
		}
		return k.left
	}
	k.bad, k.row, k.last = k.bad+1, k.row+1, err
	w.judge(k)
	return k.left
}

// judge leaves a way that fails.
func (w *Ways) judge(k *way) {
	fails := k.row >= rowMost || k.bad >= badLeast && k.bad >= badShare*(k.good+k.bad)
	if w.open(k) == 0 {
		fails = k.row >= rowLast
	}
	if k.left || !fails {
		return
	}
	k.left = true
	k.times++
	k.again = w.now().Add(k.rest())
	w.log.Warn("a way to the provider fails and is left", "way", k.Name, "failed", fmt.Sprintf("%.0f %%", 100*k.bad/(k.good+k.bad)), "tried_again_in", k.rest().String(), "error", k.last)
}

// rest is how long a way is left alone before it is tried.
func (k *way) rest() time.Duration { return min(probeFirst<<min(k.times-1, 10), probeLast) }

// try tries a way that was left, where it is time, and brings it back if a connection to
// the provider comes about; that costs nothing and sends no key. It returns what is closed
// at the end of the trial, nil where none is under way.
func (w *Ways) try(k *way) <-chan struct{} {
	if k.trying != nil || w.closed.Err() != nil || w.now().Before(k.again) {
		return k.trying
	}
	over := make(chan struct{})
	k.trying = over
	w.trials.Go(func() {
		err := w.trial(k)
		w.mu.Lock()
		defer w.mu.Unlock()
		defer close(over)
		k.trying = nil
		if err != nil {
			k.last, k.again = err, w.now().Add(k.rest())
			return
		}
		k.left, k.good, k.bad, k.row = false, 0, 0, 0
		w.log.Info("a way to the provider is open again", "way", k.Name)
	})
	return over
}

// tryAll tries the ways that were left, each at most once in probeShut, and waits for that.
func (w *Ways) tryAll(ctx context.Context) {
	var trials []<-chan struct{}
	soon := w.now().Add(probeShut)
	for _, k := range w.list {
		if !k.left {
			continue
		}
		if k.again.After(soon) {
			k.again = soon
		}
		if over := w.try(k); over != nil {
			trials = append(trials, over)
		}
	}
	w.mu.Unlock()
	defer w.mu.Lock()
	for _, over := range trials {
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
}

// trial opens one connection to the provider.
func (w *Ways) trial(k *way) error {
	conn, err := w.dial(w.closed, k, "tcp", w.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if w.tls == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.closed, tunnelWithin)
	defer cancel()
	return tls.Client(conn, w.tls).HandshakeContext(ctx)
}
