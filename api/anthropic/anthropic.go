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
	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/tasks"
)

// Config says what the form works with. All of it is required.
type Config struct {
	Desk *desk.Desk
	// Caller returns who sent a request that was let through.
	Caller  func(echo.Context) desk.Caller
	MaxBody int64 // bytes of a call's body
}

// API is the form's handlers.
type API struct{ form relay.Form }

// New returns the handlers.
func New(c Config) *API {
	return &API{relay.Form{Dialect: "anthropic", Desk: c.Desk, Caller: c.Caller, MaxBody: c.MaxBody, RequestID: "Request-Id", Failed: failed}}
}

// CreateMessage is POST /anthropic/v1/messages.
func (a *API) CreateMessage(c echo.Context) error { return a.form.Call(c, "/v1/messages", tasks.Chat) }
