package main

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/dispatch"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/web"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/upstream"
	"github.com/sluicehq/sluice/worker/webhook"
)

// service is Sluice in one process: the parts that every role has, and those
// of its roles. dev, run, api and worker are made by the same functions.
type service struct {
	cfg      *config.Config
	log      *slog.Logger
	registry *prometheus.Registry
	redis    *redisConn
	rdb      redis.UniversalClient
	joined   redis.UniversalClient // rdb, where steps that are written apart may go together
	store    *store.Store
	feeder   *queue.Feeder
	notices  *store.Notices
	gates    map[string]*limit.Gate
	breakers map[string]*pause.Breaker
	pools    *pool.Set
	jobs     *dispatch.Jobs
	quota    *quota.Quota

	guard     *webhook.Guard
	sender    *webhook.Sender   // nil in a process without workers
	deliverer *worker.Deliverer // nil in a process without workers
	public    atomic.Pointer[string]

	worker  *worker.Worker // nil in a process without that role
	fake    *fakeServer    // nil unless the built-in provider serves
	callers []*upstream.Caller
	up      atomic.Bool // every part that should run does

	grace   time.Duration // for requests in flight at a stop
	ended   chan string   // ids of jobs that this process ended; nil: nobody wants them
	healths map[string]*pool.Health
}

// roles are what a process does.
type roles struct {
	api, worker bool
	tell        bool          // of each job that this process ends
	grace       time.Duration // for calls and requests in flight at a stop; 0 means 30 s
}

// newService makes every part and starts none but the embedded Redis and the
// fake provider. The caller closes it.
func newService(ctx context.Context, cfg *config.Config, r roles, log *slog.Logger) (*service, error) {
	s := &service{
		cfg: cfg, log: log, registry: prometheus.NewRegistry(), grace: cmp.Or(r.grace, 30*time.Second),
		gates: map[string]*limit.Gate{}, breakers: map[string]*pause.Breaker{}, healths: map[string]*pool.Health{},
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if s.redis, err = openRedis(ctx, cfg, log, s.registry); err != nil {
		return nil, err
	}
	if err := s.build(ctx, r); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *service) build(ctx context.Context, r roles) error {
	s.rdb = s.redis.client(64)
	s.joined = pipeline.Client(s.rdb)
	depth := map[string]int{}
	for _, p := range s.cfg.Pools {
		depth[p.Name] = depthOf(p.Limits)
	}
	prefix := s.cfg.Redis.Prefix
	s.store = store.New(store.Config{
		Redis: s.joined, Prefix: prefix, ResultTTL: s.cfg.Results.TTL, Depth: depth, NewSecret: newSecret,
		Weight: func(tenant string) int64 { return s.cfg.Tenant(tenant).Weight },
	})
	s.feeder = queue.NewFeeder(queue.Config{Redis: s.rdb, Backlog: s.store, Prefix: prefix, Kick: s.kick, Tell: s.tell(r), Log: s.log, Metrics: s.registry})
	s.notices = store.NewNotices(s.rdb, prefix, s.control, s.log)
	var err error
	s.quota, err = quota.New(quota.Config{Redis: s.rdb, Prefix: prefix + ":quota:", Limits: func(name string) quota.Limits {
		t := s.cfg.Tenant(name)
		return quota.Limits{SubmitsPerMinute: t.SubmitsPerMinute, QueuedJobs: t.QueuedJobs, TokensPerDay: t.TokensPerDay}
	}})
	if err != nil {
		return err
	}

	if s.guard, err = newGuard(s.cfg); err != nil {
		return err
	}

	if r.worker && s.cfg.UsesFake() {
		if s.fake, err = startFake(s.cfg, s.log); err != nil {
			return err
		}
	}
	var workers []worker.Pool
	var members []pool.Member
	for _, p := range s.cfg.Pools {
		made, err := s.pool(p, depth[p.Name], r.worker)
		if err != nil {
			return err
		}
		workers = append(workers, made)
		provider, _ := s.cfg.ProviderOf(p.Name)
		members = append(members, pool.Member{
			Spec: pool.Spec{Name: p.Name, Provider: provider.Name, Dialect: upstream.Dialect(provider.Dialect), Models: p.Models, Fallback: p.FallbackModels},
			Gate: s.gates[p.Name], Breaker: s.breakers[p.Name],
		})
	}
	if r.tell {
		s.ended = make(chan string, 4096)
	}
	s.pools = pool.NewSet(s.store, members...)
	s.jobs = dispatch.NewJobs(dispatch.Config{
		Store: s.store, Feeder: s.feeder, Placer: s.pools, OneServer: !s.redis.cluster(), Log: s.log, Metrics: s.registry,
	})
	s.registry.MustRegister(s.pools.Metrics(), pool.Cut(s.healths))
	if !r.worker {
		return nil
	}
	if err := s.newDeliverer(); err != nil {
		return err
	}
	s.worker, err = worker.New(worker.Config{
		Redis: s.redis.client(32), Prefix: prefix, Record: telling{s.store, s.ended}, Leases: s.store, Texts: s.store, Feeder: s.feeder, Pools: workers, Answers: s.store, Detour: s.jobs.Exhausted,
		RenewEvery: store.RenewEvery, Grace: s.grace, Log: s.log, Metrics: s.registry,
	})
	return err
}

// pool makes a pool's gate and breaker and, for a worker, the way upstream.
func (s *service) pool(p config.Pool, depth int, works bool) (worker.Pool, error) {
	fail := func(err error) (worker.Pool, error) { return worker.Pool{}, fmt.Errorf("pools.%s: %w", p.Name, err) }
	gate, err := limit.New(limit.Config{
		Redis: s.joined, Prefix: s.cfg.Redis.Prefix, Pool: p.Name, Timeout: p.Timeout, FollowProvider: p.FollowProvider, Log: s.log, Metrics: s.registry,
		Limits: limit.Limits{
			RequestsPerMinute: p.Limits.RequestsPerMinute, InputTokensPerMinute: p.Limits.InputTokensPerMinute,
			OutputTokensPerMinute: p.Limits.OutputTokensPerMinute, RequestBurst: int(p.Limits.RequestBurst), Concurrency: p.Limits.Concurrency,
		},
	})
	if err != nil {
		return fail(err)
	}
	s.gates[p.Name] = gate

	pc := pause.Config{
		Redis: s.rdb, Prefix: s.cfg.Redis.Prefix + ":pause:", Pool: p.Name, Queue: pausing{queue.NewPauser(s.rdb, s.cfg.Redis.Prefix), s.store}, Log: s.log, Metrics: s.registry,
		Rules: pause.Rules{
			Window: p.Breaker.Window, MinCalls: p.Breaker.MinCalls, FailureRatio: p.Breaker.FailureRatio, ProbeInterval: p.Breaker.ProbeInterval,
		},
	}
	out := worker.Pool{Name: p.Name, Gate: gate, Timeout: p.Timeout, MaxAttempts: p.MaxAttempts, CacheFor: p.Cache.TTL, Share: p.ShareInFlight}
	hc := pool.HealthConfig{Models: p.Models, Log: s.log}
	if works {
		provider, _ := s.cfg.ProviderOf(p.Name)
		if provider.Fake {
			provider.BaseURL, provider.APIKey = s.fake.url, fakeKey
		}
		caller, err := upstream.New(upstream.Config{
			Provider: upstream.Provider{
				Name: provider.Name, Dialect: upstream.Dialect(provider.Dialect), BaseURL: provider.BaseURL, APIKey: provider.APIKey,
			},
			MaxResultBytes: s.cfg.Results.MaxBytes,
		})
		if err != nil {
			return fail(err)
		}
		s.callers = append(s.callers, caller)
		pc.Gate, pc.Fingerprint, hc.Asker = gate, provider.BaseURL+" "+provider.APIKey, caller
		out.Caller, out.Provider, out.Dialect = caller, provider.Name, upstream.Dialect(provider.Dialect)
		out.Concurrency = depth + p.Limits.Concurrency
		if p.Limits.Concurrency == 0 {
			out.Concurrency = depth + 256
		}
	}
	hc.Breaker = pc
	h, err := pool.NewHealth(hc)
	if err != nil {
		return fail(err)
	}
	s.healths[p.Name], s.breakers[p.Name] = h, h.Breaker()
	out.Health = h
	return out, nil
}

// telling is the record, and tells of each job that it ends. What does not fit
// into the channel has to be looked for.
type telling struct {
	*store.Store
	ended chan<- string
}

// End records how an attempt ended.
func (t telling) End(ctx context.Context, k tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error) {
	next, err := t.Store.End(ctx, k, e)
	if err == nil && t.ended != nil && e.Status.Final() {
		select {
		case t.ended <- k.ID:
		default:
		}
	}
	return next, err
}

// pausing stops Asynq's queue and the backlog before it together.
type pausing struct {
	*queue.Pauser
	store *store.Store
}

func (p pausing) Pause(ctx context.Context, pool string) error {
	if err := p.store.SetPaused(ctx, pool, true); err != nil {
		return err
	}
	return p.Pauser.Pause(ctx, pool)
}

func (p pausing) Resume(ctx context.Context, pool string) error {
	if err := p.Pauser.Resume(ctx, pool); err != nil {
		return err
	}
	return p.store.SetPaused(ctx, pool, false)
}

// depthOf is how many jobs of a pool may be between its backlog and the
// provider: two seconds of what its requests allow, so that a tenant who comes
// late waits about that long behind what is already handed out.
func depthOf(l config.Limits) int {
	if l.RequestsPerMinute > 0 {
		return max(8, int(min(l.RequestsPerMinute, 60_000)*2/60))
	}
	if l.Concurrency > 0 {
		return max(8, 2*l.Concurrency)
	}
	return 256
}

// kick wakes this process's worker that waits for a queue. Those of other
// processes are told in the round trip that brings the tasks.
func (s *service) kick(_ context.Context, name string, n int) {
	switch {
	case s.worker == nil:
	case name == queue.Deliveries:
		s.deliverer.Kick()
	default:
		s.worker.Kick(name, n)
	}
}

// tell wakes the workers of other processes. Nil in a process that has one
// itself: it takes the work, and others look twice a second.
func (s *service) tell(r roles) func(p redis.Pipeliner, pool string, n int) {
	if r.worker {
		return nil
	}
	return s.store.Kick
}

// control hears what other processes say.
func (s *service) control(c store.Control) {
	if s.worker == nil {
		return
	}
	switch c.Verb {
	case "deliver":
		s.deliverer.Wake()
	case "kick":
		s.worker.Kick(c.What, c.N)
	case "cancel":
		s.worker.Cancel(c.What)
	case "listen":
		s.worker.Listen(c.What)
	}
}

// run runs the parts that every role needs, and front beside them until ctx
// ends or one of them does. What front needs stops after it.
func (s *service) run(ctx context.Context, front ...func(context.Context) error) error {
	// Redis is stopped last, and what the front needs before it.
	bottom, stopBottom := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBottom()
	ground, groundCtx := errgroup.WithContext(bottom)
	ground.Go(func() error { return s.redis.run(groundCtx) })
	under, stop := context.WithCancel(groundCtx)
	defer stop()
	base, baseCtx := errgroup.WithContext(under)
	base.Go(func() error { return s.notices.Run(baseCtx) })
	base.Go(func() error { return s.feeder.Run(baseCtx) })
	base.Go(func() error { return s.jobs.Run(baseCtx) })
	for _, h := range s.healths {
		base.Go(func() error { return h.Run(baseCtx) })
	}

	first, frontCtx := errgroup.WithContext(ctx)
	if s.worker != nil {
		first.Go(func() error { return s.worker.Run(frontCtx) })
		first.Go(func() error { return s.deliverer.Run(frontCtx) })
		base.Go(func() error { return s.tellOfPools(baseCtx) })
	}
	for _, f := range front {
		first.Go(func() error {
			err := f(frontCtx)
			if err == nil && frontCtx.Err() == nil {
				return errDone
			}
			return err
		})
	}
	first.Go(func() error {
		select {
		case <-frontCtx.Done():
			return nil
		case <-baseCtx.Done():
			return errors.New("a part that everything needs has stopped")
		}
	})
	s.up.Store(true)
	err := first.Wait()
	s.up.Store(false)
	stop()
	if errors.Is(err, errDone) {
		err = nil
	}
	err = errors.Join(err, base.Wait())
	stopBottom()
	return errors.Join(err, ground.Wait())
}

// errDone ends a service whose front has done what it was started for.
var errDone = errors.New("done")

func (s *service) close() error {
	for _, c := range s.callers {
		c.Close()
	}
	if s.sender != nil {
		s.sender.Close()
	}
	var err error
	if s.fake != nil {
		err = s.fake.close()
	}
	return errors.Join(err, s.redis.close())
}

// operations is what readiness asks.
func (s *service) operations() api.OperationsConfig {
	return api.OperationsConfig{
		Checks: []api.Check{
			{Name: "redis", Check: s.store.Ping},
			{Name: "parts", Check: func(context.Context) error {
				if !s.up.Load() {
					return errors.New("a part has not started or has stopped")
				}
				return nil
			}},
			{Name: "provider", Check: func(context.Context) error {
				if away := s.away(); len(away) > 0 {
					return errors.New(strings.Join(away, "; "))
				}
				return nil
			}},
		},
		Notices: func() []string {
			if s.cfg.UsesFake() {
				return append(s.notes(), fakeNotice)
			}
			return s.notes()
		},
		Log: s.log,
	}
}

// away names the pools whose provider this process cannot reach while others can.
func (s *service) away() []string {
	var out []string
	for _, p := range s.cfg.Pools {
		if why := s.healths[p.Name].Away(); why != "" {
			out = append(out, fmt.Sprintf("this process cannot reach the provider of pool %s (%s) and others can: it takes none of its jobs until it does; see to its network, its proxy and the provider's base_url here", p.Name, why))
		}
	}
	return out
}

// notes are what an operator should know although everything works. That the fake
// provider answers, the console says in its own way.
func (s *service) notes() []string {
	out := append([]string(nil), s.redis.notices...)
	if refused := s.notices.Refused(); refused != "" {
		out = append(out, refused)
	}
	return append(out, s.away()...)
}

// newAPI makes the API with the console beside it, for public, the address
// that links begin with. Tokens are verified with secret unless it is nil.
func (s *service) newAPI(public string, secret []byte) (*api.API, error) {
	verifier, err := auth.New(auth.Config{
		Issuer: s.cfg.Auth.Issuer, Audience: s.cfg.Auth.Audience, MaxLifetime: s.cfg.Auth.MaxLifetime,
		HMACSecret: secret, JWKSFile: s.cfg.Auth.JWKSFile, JWKSURL: s.cfg.Auth.JWKSURL,
		Log: s.log, Metrics: s.registry,
	})
	if err != nil {
		return nil, err
	}
	key, err := s.sessionKey(secret)
	if err != nil {
		return nil, err
	}
	console, err := web.New(web.Config{
		Redis: lent{s.rdb}, Verifier: identities{verifier}, PublicURL: public, Status: s.pools.Status,
		Pause: s.pools.Pause, Resume: s.pools.Resume,
		Fake: s.cfg.UsesFake(), Notices: s.notes, Version: version, SessionKey: key, Log: s.log, Metrics: s.registry,
	})
	if err != nil {
		return nil, err
	}
	s.public.Store(&public)
	pages := map[string]http.Handler{}
	for _, path := range web.Paths() {
		pages[path] = console
	}
	return api.New(api.Config{
		Jobs: s.jobs, Batches: s.jobs, Notices: s.notices, Partials: s.store, Pools: s.pools, PoolControl: s.pools, Quota: s.quota,
		Verifier:        verifier,
		CheckWebhookURL: s.guard.Check, Webhooks: endpoints{s.store},
		NewID: store.NewID, PublicURL: public, Operations: s.operations(), Extra: pages,
		Registerer: s.registry, Log: s.log,
	})
}

// sessionKey signs the console's cookies: from the token secret, so that every
// API process has the same; without one, a key of this process's own.
func (s *service) sessionKey(secret []byte) ([]byte, error) {
	if len(secret) == 0 {
		return randomBytes(32), nil
	}
	return hkdf.Key(sha256.New, secret, nil, "sluice console session", 32)
}

// identities shows the API's verifier to the console.
type identities struct{ v *auth.Verifier }

// Verify checks a token.
func (i identities) Verify(ctx context.Context, raw string) (web.Identity, error) {
	c, err := i.v.Verify(ctx, raw)
	return web.Identity{Subject: c.Subject, Tenant: c.Tenant, Scopes: c.Scopes, ExpiresAt: c.ExpiresAt}, err
}

// serve runs an HTTP server until ctx ends, and then gives requests in flight
// the grace period. drain, if set, makes it let go of those it holds.
func (s *service) serve(ctx context.Context, l net.Listener, h http.Handler, drain func()) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Minute, IdleTimeout: 90 * time.Second,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	if drain != nil {
		drain()
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	err := srv.Shutdown(stopCtx)
	if err != nil {
		s.log.Warn("requests that outlasted the grace period are cut off", "address", l.Addr().String())
		err = srv.Close()
	}
	<-done
	return err
}

// serveOps serves metrics, health and profiles until ctx ends. A port that is
// taken, as by another worker on the same machine, is replaced by a free one.
func (s *service) serveOps(ctx context.Context) error {
	l, err := net.Listen("tcp", s.cfg.OpsListen)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(s.cfg.OpsListen)
		if splitErr != nil {
			return fmt.Errorf("ops_listen: %w", err)
		}
		taken := err
		if l, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return fmt.Errorf("ops_listen: %w", err)
		}
		s.log.Warn("ops_listen cannot be used; metrics and health are at another port", "error", taken, "address", l.Addr().String())
	}
	mux := http.NewServeMux()
	health := api.Operations(s.operations())
	mux.Handle("/healthz", health)
	mux.Handle("/readyz", health)
	mux.Handle("/metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{Registry: s.registry}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return s.serve(ctx, l, mux, nil)
}
