package api

import (
	"cmp"
	"context"
	"log/slog"
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

// OperationsConfig says what a process's health is made of. The zero value is
// always ready.
type OperationsConfig struct {
	// Checks are the parts that readiness needs; all are asked at once.
	Checks []Check
	// Notices returns what an operator should know although it works, such as
	// "jobs do not survive a restart"; nil: nothing.
	Notices func() []string
	// Timeout bounds each check; 0 means 2 s.
	Timeout time.Duration
	// Log takes the cause when a part is down; nil: nothing is logged. Causes are
	// not in the answer, which anybody may read.
	Log *slog.Logger
}

// Operations returns the handler of /healthz (200 while the process answers)
// and /readyz (200 when every part works, else 503, naming each), for the API's
// listener, the operations listener and processes without an API.
func Operations(c OperationsConfig) http.Handler {
	c.Timeout = cmp.Or(c.Timeout, 2*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
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
	down := make([]error, len(c.Checks))
	var wg sync.WaitGroup
	for i, check := range c.Checks {
		wg.Go(func() { down[i] = check.Check(ctx) })
	}
	wg.Wait()

	status, word := http.StatusOK, "ready"
	parts := []byte{}
	for i, check := range c.Checks {
		state := "ok"
		if down[i] != nil {
			state = "down"
			status, word = http.StatusServiceUnavailable, "unavailable"
			c.Log.LogAttrs(ctx, slog.LevelWarn, "part is down", slog.String("part", check.Name), slog.Any("error", down[i]))
		}
		if i > 0 {
			parts = append(parts, ',')
		}
		parts = append(parts, `{"name":`...)
		parts = jsonwrite.AppendString(parts, check.Name)
		parts = append(parts, `,"status":"`+state+`"}`...)
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
