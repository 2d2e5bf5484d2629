// Package api speaks HTTP about jobs: it checks what a caller asks, hands it to
// the store, and tells the caller how its jobs stand.
//
// It promises that a 202 is written only after the store has the job for good,
// that every failure is an RFC 9457 problem with a stable type, that an object
// of another tenant looks like one that does not exist, and that links begin
// with the configured public address and nothing a caller sent. It never runs a
// job, never touches Redis (its child quota does), and never writes a prompt, a
// result, a token or a query value to a log or a metric.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/tasks"
)

// Jobs is everything that the job routes ask of the store. Another tenant's job
// is tasks.ErrNotFound.
type Jobs interface {
	desk.Jobs
	// Jobs lists without results.
	Jobs(ctx context.Context, f tasks.Filter) (tasks.Page, error)
	// Cancel ends the job at once, also a running one; tasks.ErrFinal when it has ended already.
	Cancel(ctx context.Context, tenant, id string) (tasks.Job, error)
	// Delete forgets a final job; else tasks.ErrConflict.
	Delete(ctx context.Context, tenant, id string) error
}

// Batches is everything that the batch routes ask of the store.
type Batches interface {
	desk.Batches
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

// Pools knows where jobs go, how long they wait, and how the pools stand.
type Pools interface {
	desk.Pools
	// Provider returns who answers for a pool; "" for a pool that is no more.
	Provider(pool string) string
	Status(ctx context.Context) ([]tasks.PoolStatus, error)
}

// PoolControl is the operator's hand on a pool; tasks.ErrNotFound for an unknown one.
type PoolControl interface {
	Pause(ctx context.Context, pool, reason, by string) error
	Resume(ctx context.Context, pool, by string) error
	// Audit returns the last n things that operators did to the pool, newest first.
	Audit(ctx context.Context, pool string, n int) ([]tasks.PoolAct, error)
}

// Verifier judges bearer tokens; *auth.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, raw string) (auth.Claims, error)
}

// Config says what an API works with. Jobs, Batches, Notices, Pools,
// Verifier, NewID and PublicURL are required.
type Config struct {
	Jobs    Jobs
	Batches Batches
	Notices desk.Notices
	Pools   Pools
	// Partials gives event streams the text of running attempts; nil: they
	// carry it when the job has succeeded.
	Partials Partials
	// PoolControl pauses and resumes; nil: all of that answers 404.
	PoolControl PoolControl
	// Webhooks keeps endpoints and deliveries; nil: their routes answer 404.
	Webhooks Webhooks
	// Quota admits submits; nil: everybody, without limit.
	Quota desk.Quota
	// Verifier judges tokens. An error that wraps auth.ErrUnavailable is a 503,
	// any other a 401.
	Verifier Verifier
	// NewID returns a new id: the prefix ("job"), an underscore and something unique.
	NewID func(prefix string) string
	// PublicURL is the only base of links that are handed out: absolute, http or https.
	PublicURL string
	// CheckWebhookURL refuses an address that must not be called. It sees only
	// absolute http and https addresses without user information; nil: https only.
	CheckWebhookURL func(ctx context.Context, url string) error

	// MaxBody is the most bytes of one submit body or one line of a batch,
	// before and after decompression; 0 means 32 MiB.
	MaxBody int64
	// MaxBatchBody is the most bytes of a batch body, before and after
	// decompression; 0 means 256 MiB.
	MaxBatchBody int64
	// MaxBatchLines is the most jobs of a batch; 0 means 100,000.
	MaxBatchLines int
	// MaxWaits is the most held requests (long polls, event streams) of one
	// tenant in this process; 0 means 1,000. Above it a poll answers at once and
	// a stream is refused.
	MaxWaits int
	// Heartbeat is the time between comments in an event stream; 0 means 15 s.
	Heartbeat time.Duration
	// DeltaEvery is the time between looks at a running attempt's text; 0 means 200 ms.
	DeltaEvery time.Duration
	// ListenEvery is the time between calls of Partials.Listen; 0 means 10 s.
	ListenEvery time.Duration
	// RereadEvery bounds how late a held request sees a change whose notice was
	// lost; 0 means 5 s. Where there are no notices it looks each second at least.
	RereadEvery time.Duration

	// Operations is what /healthz and /readyz answer by.
	Operations OperationsConfig
	// Extra mounts further handlers by path, with what is under it, but "/" by
	// itself: a path that nobody has is the API's 404. The longest that matches
	// whole segments wins, and the API's own paths go first.
	Extra map[string]http.Handler

	// Registerer takes the metrics; nil: none are kept.
	Registerer prometheus.Registerer
	// Log takes a line a request and the cause of each 500; nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock that deadlines are compared with; nil means time.Now.
	Now func() time.Time
}

// API is the HTTP interface. It serves at once; Drain makes it let go of the
// requests that it holds.
type API struct {
	Config
	base    string // Config.PublicURL without a closing slash
	echo    *echo.Echo
	metrics *metrics
	desk    *desk.Desk
}

// New returns an API that is ready to serve, or every fault of the Config at once.
func New(c Config) (*API, error) {
	var faults []error
	need := func(ok bool, name string) {
		if !ok {
			faults = append(faults, fmt.Errorf("api: Config.%s is missing", name))
		}
	}
	need(c.Jobs != nil, "Jobs")
	need(c.Batches != nil, "Batches")
	need(c.Notices != nil, "Notices")
	need(c.Pools != nil, "Pools")
	need(c.Verifier != nil, "Verifier")
	need(c.NewID != nil, "NewID")
	public, err := url.Parse(c.PublicURL)
	if err != nil || public.Host == "" || public.User != nil || public.RawQuery != "" || public.Fragment != "" ||
		(public.Scheme != "http" && public.Scheme != "https") {
		faults = append(faults, errors.New("api: Config.PublicURL must be an absolute http or https address without user, query and fragment"))
	}
	for prefix := range c.Extra {
		if !strings.HasPrefix(prefix, "/") || ours(prefix) {
			faults = append(faults, fmt.Errorf("api: Config.Extra: %q must begin with a slash and is not to be a path of the API", prefix))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	setDefault(&c.MaxBody, 32<<20)
	setDefault(&c.MaxBatchBody, 256<<20)
	setDefault(&c.MaxBatchLines, 100_000)
	setDefault(&c.Heartbeat, 15*time.Second)
	setDefault(&c.DeltaEvery, 200*time.Millisecond)
	setDefault(&c.ListenEvery, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	d, err := desk.New(desk.Config{
		Jobs: c.Jobs, Batches: c.Batches, Notices: c.Notices, Pools: c.Pools, Quota: c.Quota, NewID: c.NewID,
		CheckWebhookURL: c.CheckWebhookURL, MaxWaits: c.MaxWaits, RereadEvery: c.RereadEvery,
		Registerer: c.Registerer, Log: c.Log, Now: c.Now,
	})
	if err != nil {
		return nil, err
	}
	a := &API{Config: c, base: strings.TrimRight(c.PublicURL, "/"), echo: echo.New(), metrics: m, desk: d}
	a.routes()
	return a, nil
}

func setDefault[T int | int64 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// routes lists every route. Each names the scope that it asks for, "" being any
// valid token; the last four ask for none.
func (a *API) routes() {
	e := a.echo
	e.HideBanner, e.HidePort = true, true
	// The peer's own address: a header that names another would be anybody's word.
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = a.answerError
	e.Use(a.exchange)

	// A caller submits one job. A repeat makes a second job, unless it carries
	// the same Idempotency-Key: then it gets the first answer.
	e.POST("/v1/jobs", a.submitJob, a.scope(auth.ScopeJobsWrite))
	// A caller looks through its jobs, page by page. Reading changes nothing.
	e.GET("/v1/jobs", a.listJobs, a.scope(auth.ScopeJobsRead))
	// A caller polls for a result, perhaps waiting for it. Reading changes nothing.
	e.GET("/v1/jobs/:id", a.getJob, a.scope(auth.ScopeJobsRead))
	// A caller has a finished job forgotten. A repeat is a 404.
	e.DELETE("/v1/jobs/:id", a.deleteJob, a.scope(auth.ScopeJobsWrite))
	// A caller no longer wants the result. A repeat is a 409.
	e.POST("/v1/jobs/:id/cancel", a.cancelJob, a.scope(auth.ScopeJobsWrite))
	// A caller wants a job that ended without a result run again. A repeat is a
	// 409 until it has ended once more.
	e.POST("/v1/jobs/:id/retry", a.retryJob, a.scope(auth.ScopeJobsWrite))
	// A caller follows a job. A repeat with Last-Event-ID goes on where the last one ended.
	e.GET("/v1/jobs/:id/events", a.jobEvents, a.scope(auth.ScopeJobsRead))

	// A caller submits many jobs. A repeat makes a second batch, unless it
	// carries the same Idempotency-Key: then it gets the first answer.
	e.POST("/v1/batches", a.submitBatch, a.scope(auth.ScopeJobsWrite))
	// A caller polls for a batch's counts, perhaps waiting for its end. Reading changes nothing.
	e.GET("/v1/batches/:id", a.getBatch, a.scope(auth.ScopeJobsRead))
	// A caller fetches what is finished, in the order of the lines. Reading changes nothing.
	e.GET("/v1/batches/:id/results", a.batchResults, a.scope(auth.ScopeJobsRead))
	// A caller no longer wants the rest. A repeat is a 409 once the batch has ended.
	e.POST("/v1/batches/:id/cancel", a.cancelBatch, a.scope(auth.ScopeJobsWrite))

	// Anybody with a token asks whether the pools are open. Reading changes nothing.
	e.GET("/v1/status", a.getStatus, a.scope(""))
	// An operator lists the pools. Reading changes nothing.
	e.GET("/v1/pools", a.listPools, a.scope(auth.ScopeAdmin))
	// An operator looks up who paused a pool, and why. Reading changes nothing.
	e.GET("/v1/pools/:name/audit", a.poolAudit, a.scope(auth.ScopeAdmin))
	// An operator stops a pool before the next call. A repeat replaces the reason.
	e.POST("/v1/pools/:name/pause", a.pausePool, a.scope(auth.ScopeAdmin))
	// An operator lets a pool go on. A repeat changes nothing.
	e.POST("/v1/pools/:name/resume", a.resumePool, a.scope(auth.ScopeAdmin))

	// A receiver's owner says where events go. A repeat makes a second endpoint.
	e.POST("/v1/webhook-endpoints", a.createEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner looks at what there is. Reading changes nothing.
	e.GET("/v1/webhook-endpoints", a.listEndpoints, a.scope(auth.ScopeWebhooksWrite))
	e.GET("/v1/webhook-endpoints/:id", a.getEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner changes or enables it again. A repeat changes nothing.
	e.PATCH("/v1/webhook-endpoints/:id", a.changeEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants no more. A repeat is a 404.
	e.DELETE("/v1/webhook-endpoints/:id", a.deleteEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants another secret. A repeat makes one more, and the first old one signs no longer.
	e.POST("/v1/webhook-endpoints/:id/rotate-secret", a.rotateEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants to see an event arrive. A repeat sends another.
	e.POST("/v1/webhook-endpoints/:id/test", a.testEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner asks what became of events. Reading changes nothing.
	e.GET("/v1/webhook-endpoints/:id/deliveries", a.listDeliveries, a.scope(auth.ScopeWebhooksWrite))
	e.GET("/v1/deliveries", a.listDeliveries, a.scope(auth.ScopeWebhooksWrite))
	e.GET("/v1/deliveries/:id", a.getDelivery, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants events again that got lost. A repeat while they are under way changes nothing.
	e.POST("/v1/webhook-endpoints/:id/redeliver", a.redeliverRange, a.scope(auth.ScopeWebhooksWrite))
	e.POST("/v1/deliveries/:id/redeliver", a.redeliver, a.scope(auth.ScopeWebhooksWrite))
	// A tenant learns, or replaces, what the webhook_url of its jobs is signed with. As rotate-secret.
	e.GET("/v1/signing-secret", a.getSigningSecret, a.scope(auth.ScopeWebhooksWrite))
	e.POST("/v1/signing-secret/rotate", a.rotateSigningSecret, a.scope(auth.ScopeWebhooksWrite))

	// A supervisor asks whether the process lives, a balancer whether to send
	// requests here. Reading changes nothing.
	ops := echo.WrapHandler(Operations(a.Operations))
	e.Match([]string{http.MethodGet, http.MethodHead}, "/healthz", ops)
	e.Match([]string{http.MethodGet, http.MethodHead}, "/readyz", ops)
	// A developer reads what the API takes and answers. Reading changes nothing.
	e.GET("/openapi.yaml", a.getOpenAPI)
	e.GET("/docs", a.getDocs)
}

// ours reports whether a path belongs to the API itself.
func ours(path string) bool {
	switch path {
	case "/v1", "/healthz", "/readyz", "/openapi.yaml", "/docs":
		return true
	}
	return strings.HasPrefix(path, "/v1/")
}

// Handler returns the API as a handler. It sets no timeouts: the server's read
// timeout has to be longer than the slowest upload that is wanted, except for a
// batch, which moves its own read deadline along, and held requests, which move
// their write deadline.
func (a *API) Handler() http.Handler {
	if len(a.Extra) == 0 {
		return a.echo
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ours(r.URL.Path) {
			if h := a.mounted(r.URL.Path); h != nil {
				h.ServeHTTP(w, r)
				return
			}
		}
		a.echo.ServeHTTP(w, r)
	})
}

// mounted returns the handler of the longest prefix of whole segments of path,
// or nil. The root is a prefix of nothing but itself.
func (a *API) mounted(path string) (found http.Handler) {
	longest := -1
	for prefix, h := range a.Extra {
		bare := strings.TrimRight(prefix, "/")
		under := bare != "" && (path == bare || strings.HasPrefix(path, bare+"/"))
		if len(bare) > longest && (path == prefix || under) {
			longest, found = len(bare), h
		}
	}
	return found
}

// Drain makes held requests answer now: long polls with the job as it stands,
// event streams by ending, which their readers resume elsewhere. It returns at
// once and is meant for http.Server.RegisterOnShutdown.
func (a *API) Drain() { a.desk.Drain() }
