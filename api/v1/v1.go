// Package v1 is our own form of the API: it decodes jobs, batches, webhook
// endpoints and what else a caller sends, and writes jobs, events and problems.
//
// It promises that every failure is an RFC 9457 problem with a stable type, that
// a result comes out byte for byte as the provider sent it, and that links begin
// with the configured public address and nothing a caller sent. It decides
// nothing about a job, which is the desk's, and mounts no route.
package v1

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/tasks"
)

// Jobs is what the job routes ask of the store. Another tenant's job
// is tasks.ErrNotFound.
type Jobs interface {
	Job(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Jobs lists without results.
	Jobs(ctx context.Context, f tasks.Filter) (tasks.Page, error)
	// Cancel ends the job at once, also a running one; tasks.ErrFinal when it has ended already.
	Cancel(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Edit changes the priority, deadline and metadata of a job that waits, as edit
	// leaves them; tasks.ErrConflict when it runs or has ended. edit may be called more
	// than once, and its error is returned.
	Edit(ctx context.Context, tenant, id string, edit func(*tasks.Job) error) (tasks.Job, error)
	// Delete forgets a final job; else tasks.ErrConflict.
	Delete(ctx context.Context, tenant, id string) error
}

// Batches is what the batch routes ask of the store.
type Batches interface {
	Batch(ctx context.Context, tenant, id string) (tasks.Batch, error)
	Batches(ctx context.Context, f tasks.BatchFilter) (tasks.BatchPage, error)
	// BatchResults returns the next final jobs of the batch with their results, some
	// megabytes of them, from the position from on, 0 being its first, and the
	// position to go on from, 0 at the end.
	BatchResults(ctx context.Context, tenant, id string, from int) (jobs []tasks.Job, next int, err error)
	CancelBatch(ctx context.Context, tenant, id string) (tasks.Batch, error)
}

// Partials is the text of a running attempt while it is produced.
type Partials interface {
	// Partial returns the text of the newest attempt that has produced any:
	// from the byte offset on when that is the given attempt, else all of it.
	Partial(ctx context.Context, id string, attempt, offset int) (tasks.Partial, error)
	// Listen asks the job's worker to publish its text for the next while; it is
	// renewed every Config.ListenEvery.
	Listen(ctx context.Context, id string) error
}

// Pools knows how the pools stand.
type Pools interface {
	// Provider returns who answers for a pool; "" for a pool that is no more.
	Provider(pool string) string
	Status(ctx context.Context) ([]tasks.PoolStatus, error)
	// Shares returns how tenants share a pool's allowance; tasks.ErrNotFound for an unknown one.
	Shares(ctx context.Context, pool string) (tasks.Shares, error)
	// Accounts returns how a pool's accounts stand; tasks.ErrNotFound for an unknown one.
	Accounts(ctx context.Context, pool string) ([]tasks.PoolAccount, error)
	// Timeline returns what a tenant's job did from its acceptance to its end, or to now.
	Timeline(ctx context.Context, tenant, id string) ([]tasks.Span, error)
}

// PoolControl is the operator's hand on a pool; tasks.ErrNotFound for an unknown one.
type PoolControl interface {
	// Pause stops a pool until it is resumed, or until a time; zero: none.
	Pause(ctx context.Context, pool, reason, by string, until time.Time) error
	Resume(ctx context.Context, pool, by string) error
	// Audit returns the last n things that operators did to the pool, newest first.
	Audit(ctx context.Context, pool string, n int) ([]tasks.PoolAct, error)
}

// Config says what the form works with. Desk, Caller, Jobs, Batches, Pools,
// NewID and PublicURL are required.
type Config struct {
	Desk *desk.Desk
	// Caller returns who sent a request that was let through.
	Caller      func(echo.Context) desk.Caller
	Jobs        Jobs
	Batches     Batches
	Pools       Pools
	Partials    Partials    // nil: event streams carry the text when the job has succeeded
	PoolControl PoolControl // nil: all of that answers 404
	Webhooks    Webhooks    // nil: their routes answer 404
	Tokens      Tokens      // nil: their routes answer 404
	Audit       Audit       // nil: its route answers 404, and nothing is noted
	Usage       Usage       // nil: its route answers 404
	Tenants     Tenants     // nil: its routes answer 404
	Quota       Quota       // nil: nobody has any
	Abuse       Abuse       // nil: its routes answer 404
	// Mint signs a token of that record; nil: this server has nothing to sign with.
	Mint func(tasks.Token) (string, error)
	// NewID returns a new id: the prefix ("whe"), an underscore and something unique.
	NewID func(prefix string) string
	// PublicURL is the only base of links that are handed out.
	PublicURL string

	MaxBody       int64         // bytes of a submit body or a line of a batch; 0 means 32 MiB
	MaxBatchBody  int64         // bytes of a batch body; 0 means 256 MiB
	MaxBatchLines int           // jobs of a batch; 0 means 100,000
	MaxWait       time.Duration // a submit or a poll is held, whole seconds; 0 means 50 s
	Heartbeat     time.Duration // between comments in an event stream; 0 means 15 s
	DeltaEvery    time.Duration // between looks at a running attempt's text; 0 means 200 ms
	ListenEvery   time.Duration // between calls of Partials.Listen; 0 means 10 s

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil means time.Now
}

// API is the form's handlers.
type API struct {
	c    Config
	desk *desk.Desk
	base string // Config.PublicURL without a closing slash
}

// New returns the handlers.
func New(c Config) *API {
	c.MaxBody = cmp.Or(c.MaxBody, 32<<20)
	c.MaxBatchBody = cmp.Or(c.MaxBatchBody, 256<<20)
	c.MaxBatchLines = cmp.Or(c.MaxBatchLines, 100_000)
	c.MaxWait = cmp.Or(c.MaxWait, 50*time.Second)
	c.Heartbeat = cmp.Or(c.Heartbeat, 15*time.Second)
	c.DeltaEvery = cmp.Or(c.DeltaEvery, 200*time.Millisecond)
	c.ListenEvery = cmp.Or(c.ListenEvery, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &API{c: c, desk: c.Desk, base: strings.TrimRight(c.PublicURL, "/")}
}
