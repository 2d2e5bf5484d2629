package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/sluicehq/sluice/api/jsonwrite"
	"github.com/sluicehq/sluice/api/wire"
)

// Check is one part that should run.
type Check struct {
	Name  string
	Check func(ctx context.Context) error
}

// down is a part that does not work, with a reason that anybody may read.
type down struct {
	reason string
	cause  error
}

// Down is the error of a part that does not work: the reason is in the answer, and
// so holds no address, user or key; the cause, which may be nil, is only for the log.
func Down(reason string, cause error) error { return &down{reason, cause} }

func (d *down) Error() string {
	if d.cause == nil {
		return d.reason
	}
	return d.reason + ": " + d.cause.Error()
}

func (d *down) Unwrap() error { return d.cause }

// OperationsConfig says what a process's health is made of. The zero value is
// always ready.
type OperationsConfig struct {
	// Checks are the parts that readiness needs; all are asked at once. Of why one is
	// down the answer, which anybody may read, has what [Down] gives as its reason;
	// the log is for whoever finds the change.
	Checks []Check
	// Notices returns what an operator should know although it works, such as
	// "jobs do not survive a restart"; nil: nothing.
	Notices func() []string
	// Timeout bounds each check; 0 means 2 s.
	Timeout time.Duration
}

// Operations returns the handler of /healthz (200 while the process answers)
// and /readyz (200 when every part works, else 503, naming each, with reasons), for the API's
// listener, the operations listener and processes without an API.
func Operations(c OperationsConfig) http.Handler {
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		switch r.Method {
		case http.MethodGet, http.MethodHead:
		case http.MethodOptions:
			h.Set("Allow", "OPTIONS, GET, HEAD")
			w.WriteHeader(http.StatusNoContent)
			return
		default:
			h.Set("Allow", "OPTIONS, GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		switch r.URL.Path {
		case "/healthz":
			wire.JSON(w, http.StatusOK, []byte(`{"status":"ok"}`+"\n"))
		case "/readyz":
			status, body := c.readiness(r.Context())
			wire.JSON(w, status, body)
		default:
			http.NotFound(w, r)
		}
	})
}

func (c *OperationsConfig) readiness(ctx context.Context) (status int, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	failed := make([]error, len(c.Checks))
	var wg sync.WaitGroup
	for i, check := range c.Checks {
		wg.Go(func() { failed[i] = check.Check(ctx) })
	}
	wg.Wait()

	status, word := http.StatusOK, "ready"
	parts := []byte{}
	for i, check := range c.Checks {
		state := "ok"
		if failed[i] != nil {
			state = "down"
			status, word = http.StatusServiceUnavailable, "unavailable"
		}
		if i > 0 {
			parts = append(parts, ',')
		}
		parts = append(parts, `{"name":`...)
		parts = jsonwrite.AppendString(parts, check.Name)
		parts = append(parts, `,"status":"`+state+`"`...)
		var told *down
		if errors.As(failed[i], &told) {
			parts = append(parts, `,"reason":`...)
			parts = jsonwrite.AppendString(parts, told.reason)
		}
		parts = append(parts, '}')
	}
	body = append(body, `{"status":"`+word+`","parts":[`...)
	body = append(body, parts...)
	body = append(body, `],"notices":[`...)
	if c.Notices != nil {
		for i, notice := range c.Notices() {
			if i > 0 {
				body = append(body, ',')
			}
			body = jsonwrite.AppendString(body, notice)
		}
	}
	return status, append(body, "]}\n"...)
}
