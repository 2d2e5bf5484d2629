package rig

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Call is one call that the provider has seen.
type Call struct {
	fake.Call
	End time.Time
}

// Provider is the strict fake provider in this process, so that the times of
// its calls are exact and on the same clock as those of submits. It keeps every
// call that has ended, in the order of the ends.
type Provider struct {
	*fake.Provider
	Addr    string
	Arrived chan time.Time // of each call, while somebody reads it
	// Meet, if set before any call, is shown each call as it arrives, by its key
	// and body; true: it is never answered.
	Meet func(key string, body []byte) bool

	server *http.Server
	served chan error
	mu     sync.Mutex
	calls  []Call
	tally  Tally
}

// StartProvider serves a fake on a free address. Its OnCall is the provider's.
func StartProvider(cfg fake.Config) (*Provider, error) {
	p := &Provider{Arrived: make(chan time.Time, 1), served: make(chan error, 1)}
	cfg.OnCall = func(c fake.Call) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls = append(p.calls, Call{c, time.Now()})
		p.tally.add(c)
	}
	var err error
	if p.Provider, err = fake.New(cfg); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.Provider.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	p.Addr = l.Addr().String()
	p.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.Arrived <- time.Now():
		default:
		}
		if p.Meet != nil {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if p.Meet(r.Header.Get("X-Api-Key"), body) {
				<-r.Context().Done()
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		p.ServeHTTP(w, r)
	})}
	go func() { p.served <- p.server.Serve(l) }()
	return p, nil
}

// Close ends the provider. It has kept every call after that.
func (p *Provider) Close() error {
	p.Provider.Close()
	err := p.server.Close()
	if served := <-p.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Calls returns the calls from the n-th to have ended on.
func (p *Provider) Calls(n int) []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls[n:])
}

// Tally counts the calls that have ended, and those of them that were completed,
// refused for pace, or ended otherwise.
type Tally struct{ Calls, Completed, Refused, Other int }

func (t *Tally) add(c fake.Call) {
	t.Calls++
	switch {
	case c.Completed:
		t.Completed++
	case c.Status == http.StatusTooManyRequests:
		t.Refused++
	default:
		t.Other++
	}
}

// Tally counts what there is so far.
func (p *Provider) Tally() Tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tally
}

// Key is the provider key of a worker, by its index; -1 is the one that all share.
func Key(worker int) string { return fmt.Sprintf("proof-key-%d", worker+1) }

// Digest is how the fake provider names a key.
func Digest(key string) string { return PromptDigest(key)[:12] }

// PromptDigest is how the fake provider names a prompt.
func PromptDigest(prompt string) string {
	sum := sha256.Sum256([]byte(prompt))
	return hex.EncodeToString(sum[:])
}
