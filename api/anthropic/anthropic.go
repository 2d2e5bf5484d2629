// Package anthropic is Anthropic's form of the API: its official SDKs work with this
// server as they do with Anthropic's, with another base URL and key.
//
// It promises that a body goes to the provider, and an answer back, with every member,
// known or not, and that every failure is Anthropic's envelope with x-should-retry, so
// that an SDK comes back when that can help and never when it cannot. A call is a job
// like any other; its id stands in the header sluice-job-id. The package decides
// nothing about a job, which is the desk's, and mounts no route.
package anthropic

import (
	"cmp"
	"log/slog"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/tasks"
)

// Config says what the form works with. Desk, Caller, Batches, PublicURL and MaxBody are
// required.
type Config struct {
	Desk *desk.Desk
	// Caller returns who sent a request that was let through.
	Caller  func(echo.Context) desk.Caller
	Batches Batches
	// Provider answers what is no job; nil: there is nobody to ask, and no route.
	Provider Provider
	// PublicURL is the only base of links that are handed out.
	PublicURL     string
	MaxBody       int64        // bytes of a call's body, and of one request of a batch
	MaxBatchBody  int64        // bytes of a batch; 0 means 256 MiB
	MaxBatchLines int          // requests of a batch; 0 means 100,000
	Log           *slog.Logger // nil: nothing is logged
	// KeepAlive is the longest time between two writes of a stream; 0 means 8 s.
	KeepAlive time.Duration
}

// API is the form's handlers.
type API struct {
	form relay.Form
	c    Config
}

// New returns the handlers.
func New(c Config) *API {
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	c.MaxBatchBody, c.MaxBatchLines = cmp.Or(c.MaxBatchBody, 256<<20), cmp.Or(c.MaxBatchLines, 100_000)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &API{c: c, form: relay.Form{
		Dialect: "anthropic", Desk: c.Desk, Caller: c.Caller, MaxBody: c.MaxBody, RequestID: "Request-Id", Failed: failed, Problem: Problem,
		KeepAlive: c.KeepAlive, Ping: ping, ErrorEvent: "error", Events: events,
	}}
}

// CreateMessage is POST /anthropic/v1/messages.
func (a *API) CreateMessage(c echo.Context) error { return a.form.Call(c, "/v1/messages", tasks.Chat) }
