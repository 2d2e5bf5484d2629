package wire

import (
	"log/slog"
	"net/http"
	"time"
)

// StreamWrite is how long one write to a caller who takes nothing is waited for.
const StreamWrite = 30 * time.Second

// Outflow is a long answer that goes out piece by piece, with the status 200. One that
// cannot be finished is broken off, so that it does not look whole.
type Outflow struct {
	w       http.ResponseWriter
	r       *http.Request
	kind    string // media type
	request string // the request's id, for the log
	log     *slog.Logger
	begun   bool
}

// NewOutflow returns an answer of that media type to r. Nothing is written yet.
func NewOutflow(w http.ResponseWriter, r *http.Request, kind, request string, log *slog.Logger) *Outflow {
	return &Outflow{w: w, r: r, kind: kind, request: request, log: log}
}

// Write sends the next piece, and reports whether the caller wants more: who asked for
// the header alone does not. It ends the request of a caller who has gone.
func (o *Outflow) Write(b []byte) (more bool) {
	_ = http.NewResponseController(o.w).SetWriteDeadline(time.Now().Add(StreamWrite)) // the server's own counts where there is none
	if !o.begun {
		o.begun = true
		o.w.Header().Set("Content-Type", o.kind)
		o.w.WriteHeader(http.StatusOK)
	}
	if o.r.Method == http.MethodHead {
		return false
	}
	if _, err := o.w.Write(b); err != nil {
		panic(http.ErrAbortHandler)
	}
	return true
}

// Fail returns err when nothing was written yet: it can be answered. Else the answer is
// broken off, and the log says why.
func (o *Outflow) Fail(err error) error {
	if !o.begun {
		return err
	}
	o.log.LogAttrs(o.r.Context(), slog.LevelError, "an answer is broken off", slog.String("request_id", o.request), slog.Any("error", err))
	panic(http.ErrAbortHandler)
}
