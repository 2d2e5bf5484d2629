// Package openai is OpenAI's form of the API: its official SDKs work with this server
// as they do with OpenAI's, with another base URL and key.
//
// It promises that a body goes to the provider, and an answer back, with every member,
// known or not, and that every failure is OpenAI's envelope with x-should-retry, so that
// an SDK comes back when that can help and never when it cannot. A call is a job like
// any other; its id stands in the header sluice-job-id. The package decides nothing
// about a job, which is the desk's, and mounts no route.
package openai

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/relay"
	"github.com/sluicehq/sluice/tasks"
)

// Config says what the form works with. All of it is required where nothing else is said.
type Config struct {
	Desk    *desk.Desk
	Jobs    Jobs
	Batches Batches
	Models  Models
	// Documents keeps files, and what batches have beside our own; nil: neither is served.
	Documents Documents
	// NewID returns a new id: the prefix ("batch"), an underscore and something unique.
	NewID func(prefix string) string
	// Caller returns who sent a request that was let through.
	Caller  func(echo.Context) desk.Caller
	MaxBody int64 // bytes of a call's body, or of a line of a file
	MaxFile int64 // bytes of a file, with its form; 0 means 256 MiB
	// KeepAlive is the longest time between two writes of a stream; 0 means 8 s.
	KeepAlive time.Duration

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil means time.Now
}

// API is the form's handlers.
type API struct {
	form relay.Form
	c    Config
}

// New returns the handlers.
func New(c Config) *API {
	c.MaxFile = cmp.Or(c.MaxFile, 256<<20)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &API{c: c, form: relay.Form{
		Dialect: "openai", Desk: c.Desk, Caller: c.Caller, MaxBody: c.MaxBody, RequestID: "X-Request-Id", Failed: failed, Problem: Problem,
		KeepAlive: c.KeepAlive, Ping: ping, Events: events,
	}}
}

// CreateChatCompletion is POST /openai/v1/chat/completions.
func (a *API) CreateChatCompletion(c echo.Context) error {
	return a.form.Call(c, "/chat/completions", tasks.Chat)
}

// Jobs is what the form asks of the store about jobs. Another tenant's is
// tasks.ErrNotFound.
type Jobs interface {
	Job(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Cancel ends the job at once, also a running one; tasks.ErrFinal when it has ended already.
	Cancel(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Delete forgets a final job; else tasks.ErrConflict.
	Delete(ctx context.Context, tenant, id string) error
}

// CreateEmbedding is POST /openai/v1/embeddings.
func (a *API) CreateEmbedding(c echo.Context) error {
	return a.form.Call(c, "/embeddings", tasks.Embeddings)
}
