package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// Error is a call that came to nothing by the fault of its way.
type Error struct {
	Way  string // which was in use
	Shut bool   // no way is open: the call was not sent, and none will be for now
	Err  error
}

// Error says what went wrong on which way. It holds no credentials.
func (e *Error) Error() string { return fmt.Sprintf("by the way %s: %v", e.Way, e.Err) }

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

// RoundTrip sends a request by the way in use. A failure before a connection to the
// provider stood is an [*Error]; one after it is an *Error where the way was left
// for it, and else may have been the provider's.
func (w *Ways) RoundTrip(req *http.Request) (*http.Response, error) {
	k, err := w.choose(req.Context())
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	var connected atomic.Bool
	began := time.Now()
	traced := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		// Also once more, for a kept connection that turned out to be shut.
		GetConn: func(string) { connected.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	resp, err := k.transport.RoundTrip(req.WithContext(traced))
	if err != nil {
		return nil, w.failed(req.Context(), k, connected.Load(), time.Since(began), err)
	}
	w.went(k, answered, nil)
	resp.Body = &body{ReadCloser: resp.Body, ctx: req.Context(), ways: w, way: k}
	return resp, nil
}

// failed judges a call to which no answer came. Whoever gave it up, had less time for it than a
// connection may take, or waits no longer for a provider that is connected, says nothing of
// the way.
func (w *Ways) failed(ctx context.Context, k *way, connected bool, took time.Duration, err error) error {
	if ended := ctx.Err(); errors.Is(ended, context.Canceled) || ended != nil && (connected || took < tunnelWithin) {
		return err
	}
	if left := w.went(k, failed, err); !connected || left {
		return &Error{Way: k.Name, Err: err}
	}
	return err
}

// body is an answer's, whose breaking off is noted.
type body struct {
	io.ReadCloser
	ctx  context.Context
	ways *Ways
	way  *way
	over bool
}

// Read reads on.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF || b.over || b.ctx.Err() != nil {
		return n, err
	}
	b.over = true
	if b.ways.went(b.way, broken, err) {
		err = &Error{Way: b.way.Name, Err: err}
	}
	return n, err
}
