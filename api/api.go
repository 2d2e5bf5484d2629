// Package api mounts the HTTP interface: every route with who calls it, in the
// form (v1) that reads and answers it, above the desk that serves every form.
//
// It promises that a 202 is written only after the store has the job for good,
// that every failure is answered in the form that is mounted there, with a
// stable code, that an object of another tenant looks like one that does not
// exist, and that links begin with the configured public address and nothing a
// caller sent. It never runs a job, never touches Redis (its child quota does),
// and never writes a prompt, a result, a token or a query value to a log or a metric.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicehq/sluice/api/anthropic"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/desk"
	"github.com/sluicehq/sluice/api/openai"
	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/api/wire"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/trace"
)

// Jobs is everything that is asked of the store about jobs.
type Jobs interface {
	desk.Jobs
	v1.Jobs
}

// Batches is everything that is asked of the store about batches.
type Batches interface {
	desk.Batches
	v1.Batches
	anthropic.Batches
}

// Pools knows where jobs go, how long they wait, and how the pools stand.
type Pools interface {
	desk.Pools
	v1.Pools
	openai.Models
}

// Verifier judges bearer tokens; *auth.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, raw string) (auth.Claims, error)
}

// Abuse watches how tenants behave; *abuse.Watch does.
type Abuse interface {
	desk.Abuse
	v1.Abuse
}

// Config says what an API works with. Jobs, Batches, Notices, Pools,
// Verifier, NewID and PublicURL are required.
type Config struct {
	Jobs    Jobs
	Batches Batches
	Notices desk.Notices
	Pools   Pools
	// Calls keeps who waits on their own connection; nil: the providers' forms answer 404.
	Calls desk.Calls
	// Documents keeps the files of OpenAI's form; nil: its files and batches answer 404.
	Documents openai.Documents
	// Anthropic asks providers of that form for what is no job: models and counts of
	// tokens; nil: their routes answer 404.
	Anthropic anthropic.Provider
	// Partials gives event streams the text of running attempts; nil: they
	// carry it when the job has succeeded.
	Partials v1.Partials
	// PoolControl pauses and resumes; nil: all of that answers 404.
	PoolControl v1.PoolControl
	// Webhooks keeps endpoints and deliveries; nil: their routes answer 404.
	Webhooks v1.Webhooks
	// Tokens keeps tokens; nil: their routes answer 404.
	Tokens v1.Tokens
	// Audit keeps what operators did; nil: its route answers 404, and nothing is noted.
	Audit v1.Audit
	// Usage is what tenants have used; nil: its route answers 404.
	Usage v1.Usage
	// Tenants sets what tenants may use; nil: its routes answer 404.
	Tenants v1.Tenants
	// Abuse watches how tenants behave; nil: nobody does, and its routes answer 404.
	Abuse Abuse
	// Quotas knows how tenants' submits stand; nil: nobody has any.
	Quotas v1.Quota
	// Mint signs a token of that record; nil: this server has nothing to sign with.
	Mint func(tasks.Token) (string, error)
	// Follow returns a context that ends, with auth.ErrRevoked as its cause, when the
	// caller's token is revoked; the caller calls stop. Nil: requests outlive that.
	Follow func(ctx context.Context, c auth.Claims) (followed context.Context, stop func())
	// Quota admits submits; nil: everybody, without limit.
	Quota desk.Quota
	// Returns keeps a place for who was refused and comes again in time; nil: nobody does.
	Returns desk.Returns
	// High reports whether a tenant may use the lane high; nil: every one may.
	High func(tenant string) bool
	// Trace makes the spans of submits, in the traces of their callers; nil: none are made.
	Trace *trace.Tracer
	// Prices are what models cost; none: no budget holds anybody.
	Prices tasks.Prices
	// Verifier judges tokens. An error that wraps auth.ErrUnavailable is a 503,
	// any other a 401.
	Verifier Verifier
	// NewID returns a new id: the prefix ("job"), an underscore and something unique.
	NewID func(prefix string) string
	// PublicURL is the only base of links that are handed out: absolute, http or https.
	PublicURL string
	// AllowOrigins are the origins, as in "https://app.example", whose pages may call the
	// API from a browser; "*" is any. Empty: none.
	AllowOrigins []string
	// CheckWebhookURL refuses an address that must not be called, by its text alone:
	// it is called for each, and must not look names up. It sees only absolute http
	// and https addresses without user information; nil: https only.
	CheckWebhookURL func(url string) error

	// MaxBody is the most bytes of one submit body or one line of a batch,
	// before and after decompression; 0 means 32 MiB.
	MaxBody int64
	// MaxBatchBody is the most bytes of a batch body, before and after
	// decompression; 0 means 256 MiB.
	MaxBatchBody int64
	// MaxBatchLines is the most jobs of a batch; 0 means 100,000.
	MaxBatchLines int
	// Caps bounds what callers hold of this process at once; nil: a room of its own,
	// with the usual caps. A poll that would be held above them answers at once.
	Caps *caps.Room
	// MaxWait is the longest that a submit or a poll is held, whole seconds; 0 means 50 s,
	// which is less than what proxies wait for an answer.
	MaxWait time.Duration
	// Heartbeat is the time between comments in an event stream; 0 means 15 s.
	Heartbeat time.Duration
	// KeepAlive is the longest time between two writes of a stream in a provider's form;
	// 0 means 8 s.
	KeepAlive time.Duration
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
	// Lost answers a browser that asks for an address which is neither the API's nor one of
	// Extra's; nil: it gets the API's 404, as everybody else does.
	Lost http.Handler

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
	verifier Verifier
	follow   func(context.Context, auth.Claims) (context.Context, func())
	caps     *caps.Room
	trace    *trace.Tracer
	extra    map[string]http.Handler
	lost     http.Handler
	base     string // the path of PublicURL
	openAPI  []byte
	origins  []string
	maxBody  int64
	log      *slog.Logger
	echo     *echo.Echo
	metrics  *metrics
	desk     *desk.Desk
	form     *v1.API

	documents bool // of OpenAI's form are kept
}

// check names every fault of the Config.
func (c *Config) check() error {
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
	return errors.Join(faults...)
}

// New returns an API that is ready to serve, or every fault of the Config at once.
func New(c Config) (*API, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.MaxBody = cmp.Or(c.MaxBody, 32<<20)
	m, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, err
	}
	if c.Caps == nil {
		if c.Caps, err = caps.New(caps.Config{Registerer: c.Registerer}); err != nil {
			return nil, err
		}
	}
	d, err := desk.New(desk.Config{
		Jobs: c.Jobs, Calls: c.Calls, Batches: c.Batches, Notices: c.Notices, Pools: c.Pools, Quota: c.Quota, Returns: c.Returns, High: c.High, Abuse: c.Abuse, NewID: c.NewID, Prices: c.Prices,
		CheckWebhookURL: c.CheckWebhookURL, Caps: c.Caps, RereadEvery: c.RereadEvery,
		Registerer: c.Registerer, Log: c.Log, Now: c.Now, Trace: c.Trace,
	})
	if err != nil {
		return nil, err
	}
	public, err := url.Parse(c.PublicURL)
	if err != nil {
		return nil, err
	}
	a := &API{base: strings.TrimRight(public.Path, "/"), openAPI: describe(c.PublicURL), origins: c.AllowOrigins, verifier: c.Verifier, follow: c.Follow, caps: c.Caps, trace: c.Trace, extra: c.Extra, lost: c.Lost, maxBody: c.MaxBody, log: c.Log, echo: echo.New(), metrics: m, desk: d, documents: c.Documents != nil}
	a.form = v1.New(v1.Config{
		Desk: d, Caller: caller, Jobs: c.Jobs, Batches: c.Batches, Pools: c.Pools,
		Partials: c.Partials, PoolControl: c.PoolControl, Webhooks: c.Webhooks, Tokens: c.Tokens, Audit: c.Audit, Mint: c.Mint,
		Usage: c.Usage, Tenants: c.Tenants, Quota: c.Quotas, Abuse: c.Abuse,
		NewID: c.NewID, PublicURL: c.PublicURL, MaxBody: c.MaxBody, MaxBatchBody: c.MaxBatchBody, MaxBatchLines: c.MaxBatchLines, MaxWait: c.MaxWait,
		Heartbeat: c.Heartbeat, DeltaEvery: c.DeltaEvery, ListenEvery: c.ListenEvery, Log: c.Log, Now: c.Now,
	})
	a.routes(a.form, Operations(c.Operations))
	if c.Calls != nil {
		a.relays(
			anthropic.New(anthropic.Config{
				Desk: d, Caller: caller, Batches: c.Batches, Provider: c.Anthropic, PublicURL: c.PublicURL,
				MaxBody: c.MaxBody, MaxBatchBody: c.MaxBatchBody, MaxBatchLines: c.MaxBatchLines, KeepAlive: c.KeepAlive, Log: c.Log,
			}),
			openai.New(openai.Config{
				Desk: d, Jobs: c.Jobs, Batches: c.Batches, Models: c.Pools, Documents: c.Documents, NewID: c.NewID, Caller: caller,
				MaxBody: c.MaxBody, MaxFile: c.MaxBatchBody, KeepAlive: c.KeepAlive, Log: c.Log, Now: c.Now,
			}),
		)
	}
	a.cors()
	return a, nil
}

// cors lets pages of the allowed origins use every method that some route has.
func (a *API) cors() {
	if len(a.origins) == 0 {
		return
	}
	var methods []string
	for _, r := range a.echo.Routes() {
		methods = append(methods, r.Method)
	}
	slices.Sort(methods)
	a.echo.Use(asked, middleware.CORSWithConfig(middleware.CORSConfig{
		AllowOrigins: a.origins, AllowMethods: slices.Compact(methods),
		AllowHeaders: corsRequest, ExposeHeaders: corsAnswer, MaxAge: 600,
	}))
}

// routes lists every route. Each names the scope that it asks for, "" being any
// valid token, and the query parameters that it takes; the last four ask for none.
func (a *API) routes(v *v1.API, operations http.Handler) {
	e := a.echo
	e.HideBanner, e.HidePort = true, true
	// The peer's own address: a header that names another would be anybody's word.
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = a.answerError
	e.Use(a.exchange)
	get := a.get

	// A caller submits one job. A repeat makes a second job, unless it carries
	// the same Idempotency-Key: then it gets the first answer.
	e.POST("/v1/jobs", v.SubmitJob, a.scope(auth.ScopeJobsWrite))
	// A caller looks through its jobs, page by page. Reading changes nothing.
	get("/v1/jobs", v.ListJobs, a.scope(auth.ScopeJobsRead, "status", "model", "pool", "batch", "metadata.*", "since", "until", "limit", "after"))
	// A caller polls for a result, perhaps waiting for it. Reading changes nothing.
	get("/v1/jobs/:id", v.GetJob, a.scope(auth.ScopeJobsRead, "wait"))
	// A caller changes a job that waits. A repeat changes nothing more.
	e.PATCH("/v1/jobs/:id", v.EditJob, a.scope(auth.ScopeJobsWrite))
	// A caller has a finished job forgotten. A repeat is a 404.
	e.DELETE("/v1/jobs/:id", v.DeleteJob, a.scope(auth.ScopeJobsWrite))
	// A caller no longer wants the result. A repeat is a 409.
	e.POST("/v1/jobs/:id/cancel", v.CancelJob, a.scope(auth.ScopeJobsWrite))
	// A caller wants a job that ended without a result run again. A repeat is a
	// 409 until it has ended once more.
	e.POST("/v1/jobs/:id/retry", v.RetryJob, a.scope(auth.ScopeJobsWrite))
	// A caller wants many jobs run again that ended without a result, or many no longer. A
	// repeat finds what is left of them, unless it carries the same Idempotency-Key: then it
	// gets the first answer.
	e.POST("/v1/jobs/retry", v.RetryJobs, a.scope(auth.ScopeJobsWrite))
	e.POST("/v1/jobs/cancel", v.CancelJobs, a.scope(auth.ScopeJobsWrite))
	// A caller follows a job. A repeat with Last-Event-ID goes on where the last one ended.
	get("/v1/jobs/:id/events", v.JobEvents, a.scope(auth.ScopeJobsRead))
	// A caller asks what each second of a job was for. Reading changes nothing.
	get("/v1/jobs/:id/timeline", v.Timeline, a.scope(auth.ScopeJobsRead))

	// A caller submits many jobs. A repeat makes a second batch, unless it
	// carries the same Idempotency-Key: then it gets the first answer.
	e.POST("/v1/batches", v.SubmitBatch, a.scope(auth.ScopeJobsWrite, "id"))
	// A caller looks through its batches, page by page. Reading changes nothing.
	get("/v1/batches", v.ListBatches, a.scope(auth.ScopeJobsRead, "status", "since", "until", "limit", "after"))
	// A caller polls for a batch's counts, perhaps waiting for its end. Reading changes nothing.
	get("/v1/batches/:id", v.GetBatch, a.scope(auth.ScopeJobsRead, "wait"))
	// A caller fetches what is finished, in the order of the lines. Reading changes nothing.
	get("/v1/batches/:id/results", v.BatchResults, a.scope(auth.ScopeJobsRead))
	// A caller no longer wants the rest. A repeat is a 409 once the batch has ended.
	e.POST("/v1/batches/:id/cancel", v.CancelBatch, a.scope(auth.ScopeJobsWrite))
	// A caller wants what ended without a result run again. A repeat as of many jobs.
	e.POST("/v1/batches/:id/retry", v.RetryBatch, a.scope(auth.ScopeJobsWrite))

	// Anybody with a token asks whether the pools are open. Reading changes nothing.
	get("/v1/status", v.GetStatus, a.scope(""))
	// An operator lists the pools. Reading changes nothing.
	get("/v1/pools", v.ListPools, a.scope(auth.ScopeAdmin))
	// An operator asks whom a pool's allowance serves. Reading changes nothing.
	get("/v1/pools/:name/tenants", v.PoolTenants, a.scope(auth.ScopeAdmin))
	// An operator sees which accounts a pool has and how they stand. Reading changes nothing.
	get("/v1/pools/:name/accounts", v.PoolAccounts, a.scope(auth.ScopeAdmin))
	// An operator looks up who paused a pool, and why. Reading changes nothing.
	get("/v1/pools/:name/audit", v.PoolAudit, a.scope(auth.ScopeAdmin, "limit"))
	// An operator stops a pool before the next call. A repeat replaces the reason.
	e.POST("/v1/pools/:name/pause", v.PausePool, a.scope(auth.ScopeAdmin))
	// An operator lets a pool go on. A repeat changes nothing.
	e.POST("/v1/pools/:name/resume", v.ResumePool, a.scope(auth.ScopeAdmin))

	// A tenant asks what it has used, and what is left to it; an operator asks of others.
	// Reading changes nothing.
	get("/v1/usage", v.GetUsage, a.usage())

	// An operator asks what was found of tenants. Reading changes nothing.
	get("/v1/abuse", v.ListAbuse, a.scope(auth.ScopeAdmin))
	// An operator says that it is none. A repeat changes nothing more.
	e.POST("/v1/abuse/:tenant/release", v.ReleaseTenant, a.scope(auth.ScopeAdmin))

	// An operator looks through the tenants, page by page. Reading changes nothing.
	get("/v1/tenants", v.ListTenants, a.scope(auth.ScopeAdmin, "limit", "after"))
	// An operator says what a tenant may use from now on. A repeat changes nothing.
	e.PUT("/v1/tenants/:name", v.SetTenant, a.scope(auth.ScopeAdmin))
	// An operator has all deleted that a tenant has. A repeat goes on with it, or finds nothing.
	e.DELETE("/v1/tenants/:name", v.DeleteTenant, a.scope(auth.ScopeAdmin, "reason"))

	// An operator makes a token that the server keeps. A repeat makes a second token.
	e.POST("/v1/tokens", v.CreateToken, a.scope(auth.ScopeAdmin))
	// An operator looks through them, page by page. Reading changes nothing.
	get("/v1/tokens", v.ListTokens, a.scope(auth.ScopeAdmin, "limit", "after"))
	// An operator takes any token back by its jti. A repeat changes nothing.
	e.DELETE("/v1/tokens/:id", v.RevokeToken, a.scope(auth.ScopeAdmin, "reason"))
	// An operator looks up who changed what, and why. Reading changes nothing.
	get("/v1/audit", v.ListAudit, a.scope(auth.ScopeAdmin, "limit", "after"))

	// A receiver's owner says where events go. A repeat makes a second endpoint.
	e.POST("/v1/webhook-endpoints", v.CreateEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner looks at what there is. Reading changes nothing.
	get("/v1/webhook-endpoints", v.ListEndpoints, a.scope(auth.ScopeWebhooksWrite))
	get("/v1/webhook-endpoints/:id", v.GetEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner changes or enables it again. A repeat changes nothing.
	e.PATCH("/v1/webhook-endpoints/:id", v.ChangeEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants no more. A repeat is a 404.
	e.DELETE("/v1/webhook-endpoints/:id", v.DeleteEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants another secret. A repeat makes one more, and the first old one signs no longer.
	e.POST("/v1/webhook-endpoints/:id/rotate-secret", v.RotateEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants to see an event arrive. A repeat sends another.
	e.POST("/v1/webhook-endpoints/:id/test", v.TestEndpoint, a.scope(auth.ScopeWebhooksWrite))
	// Its owner asks what became of events. Reading changes nothing.
	get("/v1/webhook-endpoints/:id/deliveries", v.ListDeliveries, a.scope(auth.ScopeWebhooksWrite, "status", "limit", "after"))
	get("/v1/deliveries", v.ListDeliveries, a.scope(auth.ScopeWebhooksWrite, "status", "limit", "after"))
	get("/v1/deliveries/:id", v.GetDelivery, a.scope(auth.ScopeWebhooksWrite))
	// Its owner wants events again that got lost. A repeat while they are under way changes nothing.
	e.POST("/v1/webhook-endpoints/:id/redeliver", v.RedeliverRange, a.scope(auth.ScopeWebhooksWrite))
	e.POST("/v1/deliveries/:id/redeliver", v.Redeliver, a.scope(auth.ScopeWebhooksWrite))
	// A tenant learns, or replaces, what the webhook_url of its jobs is signed with. As rotate-secret.
	get("/v1/signing-secret", v.GetSigningSecret, a.scope(auth.ScopeWebhooksWrite))
	e.POST("/v1/signing-secret/rotate", v.RotateSigningSecret, a.scope(auth.ScopeWebhooksWrite))

	// A supervisor asks whether the process lives, a balancer whether to send
	// requests here. Reading changes nothing.
	ops := echo.WrapHandler(operations)
	get("/healthz", ops, takes())
	get("/readyz", ops, takes())
	// A developer reads what the API takes and answers. Reading changes nothing.
	get("/openapi.yaml", a.getOpenAPI, takes())
	get("/docs", getDocs, takes())
}

// get makes a route that only reads: HEAD goes wherever GET does. OPTIONS is Echo's own,
// for every path.
func (a *API) get(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) {
	a.echo.Match([]string{http.MethodGet, http.MethodHead}, path, h, m...)
}

// relays lists the routes of the providers' own forms, by which their official SDKs
// call. A repeat that says so, or has the same Idempotency-Key, waits for the job of
// the first call; any other is a call of its own.
func (a *API) relays(an *anthropic.API, oa *openai.API) {
	// A caller waits for a message. "beta" is the SDKs' own mark, and means nothing here.
	a.echo.POST("/anthropic/v1/messages", an.CreateMessage, a.scope(auth.ScopeJobsWrite, "beta"))
	// A caller has many messages made. A repeat that says so, or has the same
	// Idempotency-Key, gets the first one's batch.
	const batches = "/anthropic/v1/messages/batches"
	a.echo.POST(batches, an.CreateBatch, a.scope(auth.ScopeJobsWrite, "beta"))
	get := func(path string, h echo.HandlerFunc, query ...string) {
		a.get(path, h, a.scope(auth.ScopeJobsRead, append(query, "beta")...))
	}
	// A caller looks through its batches, at one, or at its results. Reading changes nothing.
	get(batches, an.ListBatches, "limit", "after_id", "before_id")
	get(batches+"/:id", an.GetBatch)
	get(batches+"/:id/results", an.BatchResults)
	if an.Asks() {
		// A caller counts tokens before it sends them, or looks at the models. Neither changes anything.
		a.echo.POST("/anthropic/v1/messages/count_tokens", an.CountTokens, a.scope(auth.ScopeJobsWrite, "beta"))
		get("/anthropic/v1/models", an.ListModels, "limit", "after_id", "before_id")
		get("/anthropic/v1/models/:id", an.GetModel)
	}
	// A caller no longer wants the rest. A repeat changes nothing.
	a.echo.POST(batches+"/:id/cancel", an.CancelBatch, a.scope(auth.ScopeJobsWrite, "beta"))
	// A caller has an ended batch forgotten. A repeat is a 404.
	a.echo.DELETE(batches+"/:id", an.DeleteBatch, a.scope(auth.ScopeJobsWrite, "beta"))
	// A caller waits for a completion.
	a.echo.POST("/openai/v1/chat/completions", oa.CreateChatCompletion, a.scope(auth.ScopeJobsWrite))
	// A caller waits for a response, or hands one in that it looks for later.
	a.echo.POST("/openai/v1/responses", oa.CreateResponse, a.scope(auth.ScopeJobsWrite))
	// It looks for one. Reading changes nothing.
	a.get("/openai/v1/responses/:id", oa.GetResponse, a.scope(auth.ScopeJobsRead, "stream", "starting_after", "include", "include[]", "include_obfuscation"))
	// It no longer wants it. A repeat answers the same.
	a.echo.POST("/openai/v1/responses/:id/cancel", oa.CancelResponse, a.scope(auth.ScopeJobsWrite))
	// It has one forgotten that has ended. A repeat is a 404.
	a.echo.DELETE("/openai/v1/responses/:id", oa.DeleteResponse, a.scope(auth.ScopeJobsWrite))
	// A caller asks which models there are. Reading changes nothing.
	a.get("/openai/v1/models", oa.ListModels, a.scope(""))
	a.get("/openai/v1/models/*", oa.GetModel, a.scope(""))
	if a.documents {
		a.files(oa)
	}
	// A caller waits for embeddings.
	a.echo.POST("/openai/v1/embeddings", oa.CreateEmbedding, a.scope(auth.ScopeJobsWrite))
}

// files lists the routes of OpenAI's files and batches.
func (a *API) files(oa *openai.API) {
	e := a.echo
	// A caller sends a file with the requests of a batch. A repeat makes a second file.
	e.POST("/openai/v1/files", oa.CreateFile, a.scope(auth.ScopeJobsWrite))
	// It looks through its files, and reads one. Reading changes nothing.
	a.get("/openai/v1/files", oa.ListFiles, a.scope(auth.ScopeJobsRead, "purpose", "limit", "after", "order"))
	a.get("/openai/v1/files/:id", oa.GetFile, a.scope(auth.ScopeJobsRead))
	a.get("/openai/v1/files/:id/content", oa.FileContent, a.scope(auth.ScopeJobsRead))
	// It needs a file no more. A repeat is a 404.
	e.DELETE("/openai/v1/files/:id", oa.DeleteFile, a.scope(auth.ScopeJobsWrite))
	// It has the requests of a file run. A repeat that says so finds the first batch.
	e.POST("/openai/v1/batches", oa.CreateBatch, a.scope(auth.ScopeJobsWrite))
	// It looks how its batches stand. Reading changes nothing.
	a.get("/openai/v1/batches", oa.ListBatches, a.scope(auth.ScopeJobsRead, "limit", "after"))
	a.get("/openai/v1/batches/:id", oa.GetBatch, a.scope(auth.ScopeJobsRead))
	// It no longer wants the rest. A repeat answers the same.
	e.POST("/openai/v1/batches/:id/cancel", oa.CancelBatch, a.scope(auth.ScopeJobsWrite))
}

// asked lets pages of the allowed origins send whatever field they ask for as well: SDKs
// have fields of their own, and sluice-metadata-KEY has any name. No field gives a page
// more than its token does.
func asked(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		names, h := c.Request().Header.Get("Access-Control-Request-Headers"), c.Response().Header()
		if c.Request().Method == http.MethodOptions && names != "" {
			c.Response().Before(func() {
				if known := h.Get("Access-Control-Allow-Headers"); known != "" {
					h.Set("Access-Control-Allow-Headers", known+","+names)
				}
			})
		}
		return next(c)
	}
}

// What pages of the allowed origins may send and read, beside what browsers let pass.
// They never send a cookie: the console is not for them.
var (
	corsRequest = []string{
		"Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer", "X-Request-Id",
		"X-Api-Key", "Anthropic-Version", "Anthropic-Beta", "OpenAI-Beta", "OpenAI-Organization", "OpenAI-Project", "X-Stainless-Arch", "X-Stainless-Async", "X-Stainless-Helper-Method", "X-Stainless-Lang",
		"X-Stainless-OS", "X-Stainless-Package-Version", "X-Stainless-Retry-Count", "X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Timeout",
	}
	corsAnswer = []string{
		"Location", "Retry-After", "RateLimit", "RateLimit-Policy", "ETag", "X-Request-Id", "Idempotency-Replayed", "Preference-Applied", "sluice-job-id", "sluice-batch-counts", "Request-Id",
		"X-Should-Retry", "Retry-After-Ms", "WWW-Authenticate",
	}
)

// ours reports whether a path belongs to the API itself.
func ours(path string) bool {
	switch path {
	case "/v1", "/healthz", "/readyz", "/openapi.yaml", "/docs":
		return true
	}
	return strings.HasPrefix(path, "/v1/") || relayed(path)
}

// Handler returns the API as a handler. Where PublicURL has a path, requests may come with
// it or without it: some proxies take it away. The body of every request moves the
// connection's read deadline along as it comes, and held requests their write
// deadline; else the server's own timeouts count.
func (a *API) Handler() http.Handler {
	return wire.Steady(a.under(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ours(r.URL.Path) {
			h := a.mounted(r.URL.Path)
			if h == nil && browses(r) {
				h = a.lost
			}
			if h != nil {
				h.ServeHTTP(w, r)
				return
			}
		}
		a.echo.ServeHTTP(w, r)
	})))
}

// browses reports whether a request is of somebody who wants a page to read.
func browses(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// under takes the path of PublicURL away where a request has it.
func (a *API) under(next http.Handler) http.Handler {
	if a.base == "" {
		return next
	}
	stripped := http.StripPrefix(a.base, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == a.base:
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = "/", ""
			next.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, a.base+"/"):
			stripped.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// mounted returns the handler of the longest prefix of whole segments of path,
// or nil. The root is a prefix of nothing but itself.
func (a *API) mounted(path string) (found http.Handler) {
	longest := -1
	for prefix, h := range a.extra {
		bare := strings.TrimRight(prefix, "/")
		under := bare != "" && (path == bare || strings.HasPrefix(path, bare+"/"))
		if len(bare) > longest && (path == prefix || under) {
			longest, found = len(bare), h
		}
	}
	return found
}

// Desk is what its forms share, for another view of the same jobs.
func (a *API) Desk() *desk.Desk { return a.desk }

// TakeBatch takes a file in as POST /v1/batches takes its body; see [v1.API.TakeBatch].
func (a *API) TakeBatch(ctx context.Context, u *v1.Upload) (tasks.Batch, error) {
	tenant := tasks.TenantOf(u.Caller.Tenant)
	release, err := a.caps.Request(tenant)
	if err != nil {
		return tasks.Batch{}, err
	}
	defer release()
	room := a.caps.Body(tenant, a.maxBody)
	defer room.Give(-1)
	u.Room = room
	return a.form.TakeBatch(ctx, u)
}

// V1 is our own form, for another view of the same: the console.
func (a *API) V1() *v1.API { return a.form }

// Drain makes held requests answer now: long polls with the job as it stands,
// event streams by ending, which their readers resume elsewhere. It returns at
// once and is meant for http.Server.RegisterOnShutdown.
func (a *API) Drain() { a.desk.Drain() }
