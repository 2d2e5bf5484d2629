package main

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/api/abuse"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/dispatch"
	"github.com/sluicehq/sluice/tasks/pipeline"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/tasks/trace"
	"github.com/sluicehq/sluice/web"
	"github.com/sluicehq/sluice/worker"
	"github.com/sluicehq/sluice/worker/egress"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/pause"
	"github.com/sluicehq/sluice/worker/pool"
	"github.com/sluicehq/sluice/worker/spill"
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
	kept     atomic.Bool           // Redis has replicas, and the record is not written without one
	joined   redis.UniversalClient // rdb, where steps that are written apart may go together
	bodies   *bodies.Bodies        // nil: large bodies are in Redis, too
	store    *store.Store
	feeder   *queue.Feeder
	notices  *store.Notices
	settings *store.Settings
	ready    *readiness
	clock    clock
	gates    map[string]*limit.Gate          // by allowance
	shared   map[*limit.Gate]*pool.Allowance // of accounts of pools that have several
	hands    pool.Hands                      // of the breakers of those accounts
	breakers map[string]*pause.Breaker       // by pool
	accounts map[string]*pool.Accounts       // by pool, of those that have several
	pools    *pool.Set
	jobs     *dispatch.Jobs
	quota    *quota.Quota
	abuse    *abuse.Watch   // nil: this process has no API
	verifier *auth.Verifier // nil in a process without the API
	secret   bool           // tokens that are signed with one are judged as well

	guard     *webhook.Guard
	sender    *webhook.Sender   // nil in a process without workers
	deliverer *worker.Deliverer // nil in a process without workers
	public    atomic.Pointer[string]
	room      *caps.Room // nil in a process without an API
	console   *web.Web   // likewise

	sealing sealing

	spill   *spill.Folder  // of answers that Redis does not take; nil: there is none
	noSpill string         // why there is none, for a worker
	worker  *worker.Worker // nil in a process without that role
	fake    *fakeServer    // nil unless the built-in provider serves
	callers []*upstream.Caller
	ways    map[string]*egress.Ways // by provider, of those that list any
	sides   *sides                  // nil in a process without the API
	up      atomic.Bool             // every part that should run does

	grace   time.Duration           // for requests in flight at a stop
	delay   time.Duration           // of an API, to be left by who sends it requests
	leaving atomic.Bool             // it is to be left now
	ended   chan string             // ids of jobs that this process ended; nil: nobody wants them
	healths map[string]*pool.Health // by pool, or pool and account

	keepAlive time.Duration // see roles
	trace     *trace.Tracer // nil: off
}

// roles are what a process does.
type roles struct {
	api, worker bool
	tell        bool             // of each job that this process ends
	grace       time.Duration    // for calls and requests in flight at a stop; 0 means 30 s
	now         func() time.Time // the clock of the record's scripts, for tests; nil: Redis's own
	keepAlive   time.Duration    // between two writes of a stream, for tests; 0 is the API's own
	// ownKey has the process seal with the key of its data_dir where none is configured and
	// Redis is the embedded one. again reads the configuration once more, nil: it stays.
	ownKey bool
	again  func() (*config.Config, error)
}

// newService makes every part and starts none but the embedded Redis and the
// fake provider. The caller closes it.
func newService(ctx context.Context, cfg *config.Config, r roles, log *slog.Logger) (*service, error) {
	s := &service{
		cfg: cfg, log: log, registry: prometheus.NewRegistry(), grace: cmp.Or(r.grace, 30*time.Second), keepAlive: r.keepAlive,
		gates: map[string]*limit.Gate{}, shared: map[*limit.Gate]*pool.Allowance{}, breakers: map[string]*pause.Breaker{}, accounts: map[string]*pool.Accounts{}, healths: map[string]*pool.Health{}, ways: map[string]*egress.Ways{},
	}
	if r.api && !r.worker {
		s.delay = cfg.DrainDelay
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	var err error
	if s.redis, err = openRedis(ctx, cfg, log, s.registry); err != nil {
		return nil, err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if most := softMemory(redisd.ContainerMemory(), s.redis.beside()); most > 0 {
			debug.SetMemoryLimit(most)
		}
	}
	if err := s.build(ctx, r); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.bodies != nil {
		_ = s.bodies.Try(ctx) // what is wrong, /readyz says
	}
	s.ready.ask(ctx) // nothing is taken in before it is known what becomes of it
	return s, nil
}

// softMemory is how much memory this process is to stay below by collecting more often: 90 %
// of what its container may use, less what the embedded Redis beside it takes, and a tenth at
// least; 0: nothing limits it.
func softMemory(container, redis int64) int64 {
	return max(container/10*9-redis, container/10)
}

func (s *service) build(ctx context.Context, r roles) (err error) {
	if s.trace, err = newTracer(ctx, s.clock.Now, s.registry, s.log); err != nil {
		return err
	}
	s.rdb = s.redis.open(64)
	s.joined = pipeline.Client(s.rdb)
	depth, rates, lanes := map[string]int{}, map[string]tasks.Rates{}, map[string]store.Shares{}
	for _, p := range s.cfg.Pools {
		all := s.cfg.Allowed(p)
		depth[p.Name] = depthOf(all)
		lanes[p.Name] = store.Shares(p.Lanes)
		rates[p.Name] = tasks.Rates{Requests: all.RequestsPerMinute, InputTokens: all.InputTokensPerMinute, OutputTokens: all.OutputTokensPerMinute}
	}
	prefix := s.cfg.Redis.Prefix
	if err := s.openBodies(); err != nil {
		return err
	}
	s.settings = store.NewSettings(s.rdb, prefix)
	_ = s.settings.Refresh(ctx) // else the configuration's stand until they are read
	if err := s.openSeal(r); err != nil {
		return err
	}
	s.store = store.New(store.Config{
		Seal: s.sealing.ring, Plain: s.sealing.plain,
		Bodies: s.bodies, Above: s.cfg.BodiesAbove(),
		Redis: pipeline.Kept(s.rdb, &s.kept), Prefix: prefix, ResultTTL: s.cfg.Results.TTL, ResultBytes: s.cfg.Results.MaxBytes, Depth: depth, Rates: rates, NewSecret: newSecret,
		Weight: func(tenant string) int64 { return s.limitsOf(tenant).Weight },
		Places: s.placesOf, Lanes: lanes, Process: version + " " + whom(), Now: r.now,
	})
	s.feeder = queue.NewFeeder(queue.Config{Redis: s.rdb, Backlog: s.store, Prefix: prefix, Kick: s.kick, Tell: s.tell(r), Log: s.log, Metrics: s.registry, Pools: slices.Sorted(maps.Keys(depth))})
	s.notices = store.NewNotices(s.rdb, prefix, s.store, s.control)
	s.ready = newReadiness(s, r)
	s.quota, err = quota.New(quota.Config{Redis: s.rdb, Prefix: prefix + ":quota:", Limits: func(name string) quota.Limits {
		t := s.limitsOf(name)
		return quota.Limits{SubmitsPerMinute: t.SubmitsPerMinute, ResendsPerMinute: t.ResendsPerMinute, QueuedJobs: t.QueuedJobs, QueuedBytes: t.QueuedBytes, RunningJobs: t.RunningJobs, TokensPerDay: t.TokensPerDay, CostPerDay: t.CostPerDay, Users: t.Users}
	}})
	if err != nil {
		return err
	}

	if s.guard, err = newGuard(s.cfg); err != nil {
		return err
	}

	if (r.worker || r.api) && s.cfg.UsesFake() {
		if s.fake, err = startFake(s.cfg, s.log); err != nil {
			return err
		}
	}
	workers, members, err := s.openPools(r, depth)
	if err != nil {
		return err
	}
	if r.tell {
		s.ended = make(chan string, 4096)
	}
	s.pools = pool.NewSet(s.store, s.clock.Now, members...)
	s.jobs = dispatch.NewJobs(dispatch.Config{
		Store: s.store, Feeder: s.feeder, Placer: s.pools, OneServer: !s.redis.cluster(), Shut: s.ready.shut, Log: s.log, Metrics: s.registry,
	})
	s.registry.MustRegister(s.pools.Metrics(), s.pools.Standings(), pool.Cut(s.healths), egress.Metrics(s.ways))
	if !r.worker {
		return nil
	}
	return s.newWorkers(workers)
}

// openPools opens the configured pools, as their workers and as who places jobs see them.
func (s *service) openPools(r roles, depth map[string]int) (workers []worker.Pool, members []pool.Member, err error) {
	for _, p := range s.cfg.Pools {
		made, member, err := s.pool(p, depth[p.Name], r.worker)
		if err != nil {
			return nil, nil, fmt.Errorf("pools.%s: %w", p.Name, err)
		}
		workers = append(workers, made)
		provider, _ := s.cfg.ProviderOf(p.Name)
		member.Spec = pool.Spec{Name: p.Name, Provider: provider.Name, Dialect: upstream.Dialect(provider.Dialect), Models: p.Models, Fallback: p.FallbackModels}
		if p.FollowProvider {
			member.GuessedInput = s.cfg.Allowed(p).InputTokensPerMinute
		}
		if r.api {
			if member.Lister, err = s.lister(p, made); err != nil {
				return nil, nil, err
			}
		}
		members = append(members, member)
	}
	return workers, members, nil
}

// openBodies opens the store of large bodies, where there is one.
func (s *service) openBodies() (err error) {
	at := s.cfg.BodiesURL()
	if at == "" {
		return nil
	}
	b := s.cfg.Bodies
	s.bodies, err = bodies.Open(bodies.Config{
		URL: at, Pieces: store.NewPieces(s.rdb, s.cfg.Redis.Prefix), AccessKey: b.AccessKey, SecretKey: b.SecretKey, SessionToken: b.SessionToken, Log: s.log, Metrics: s.registry,
	})
	return err
}

// newWorkers makes the parts of a worker: that which asks providers, that which sends
// webhooks, and the folder for what Redis does not take of either.
func (s *service) newWorkers(pools []worker.Pool) error {
	record := telling{s.store, s.ended}
	deliveries := dispatch.NewDeliveries(s.store, s.feeder, s.log)
	var keeps worker.Spill
	if s.openSpill(record, deliveries); s.spill != nil {
		keeps = s.spill
	}
	if err := s.newDeliverer(deliveries, keeps); err != nil {
		return err
	}
	var err error
	s.worker, err = worker.New(worker.Config{
		Redis: s.redis.open(32), Prefix: s.cfg.Redis.Prefix, Record: record, Spill: keeps, Leases: s.store, Texts: s.store, Feeder: s.feeder, Pools: pools, Answers: s.store, Bundles: s.store, Detour: s.jobs.Exhausted,
		Prices: s.cfg.PriceList(),
		Trace:  s.trace, RenewEvery: store.RenewEvery, Grace: s.grace, Now: s.clock.Now, Log: s.log, Metrics: s.registry,
	})
	return err
}

// ends is where what was kept on the disk belongs.
type ends struct {
	telling
	*dispatch.Deliveries
}

// End records how an attempt at a job ended.
func (e ends) End(ctx context.Context, k tasks.Ticket, end tasks.Ending) ([]tasks.Ticket, error) {
	return e.telling.End(ctx, k, end)
}

// Renew keeps leases of jobs.
func (e ends) Renew(ctx context.Context, held []tasks.Ticket) ([]string, error) {
	return e.telling.Renew(ctx, held)
}

// RenewDeliveries keeps leases of deliveries.
func (e ends) RenewDeliveries(ctx context.Context, list []tasks.DeliveryTicket) error {
	return e.telling.RenewDeliveries(ctx, list)
}

// openSpill makes the folder in data_dir for what Redis does not take. A worker does
// without one too, and says so.
func (s *service) openSpill(record telling, deliveries *dispatch.Deliveries) {
	why := "it is not set"
	if s.cfg.DataDir != "" {
		var err error
		s.spill, err = spill.Open(spill.Config{
			Dir: filepath.Join(s.cfg.DataDir, "spill"), Record: ends{record, deliveries}, Seal: s.store.Sealed, Open: s.store.Opened, Hand: s.feeder.Hand, TTL: s.cfg.Results.TTL, Log: s.log, Metrics: s.registry,
			Ended: func(t tasks.Ticket, e tasks.Ending) { s.worker.Ended(t, e) },
		})
		if err == nil {
			return
		}
		why = err.Error()
	}
	s.noSpill = "answers that Redis does not take cannot be kept in data_dir (" + why + "): a stop loses them, and they are asked for again"
	s.log.Warn(s.noSpill)
}

// lister is who lists the models of a pool's provider.
func (s *service) lister(p config.Pool, made worker.Pool) (pool.Lister, error) {
	caller := made.Caller
	if len(made.Accounts) > 0 {
		caller = made.Accounts[0].Caller
	}
	if l, ok := caller.(pool.Lister); ok {
		return l, nil
	}
	return s.caller(s.provider(p), s.cfg.AccountsOf(p)[0].Models)
}

// caller makes the way to a provider, which ends with the service. models are its names of models
// where they are others than ours.
func (s *service) caller(provider config.Provider, models map[string]string) (*upstream.Caller, error) {
	roots, err := provider.Roots()
	if err != nil {
		return nil, fmt.Errorf("providers.%s.ca_file: %w", provider.Name, err)
	}
	client, err := s.client(provider, roots)
	if err != nil {
		return nil, fmt.Errorf("providers.%s.%w", provider.Name, err)
	}
	userKey, err := userKey(provider)
	if err != nil {
		return nil, fmt.Errorf("providers.%s.user_hash: %w", provider.Name, err)
	}
	caller, err := upstream.New(upstream.Config{
		Client: client,
		Provider: upstream.Provider{
			Name: provider.Name, Dialect: upstream.Dialect(provider.Dialect), BaseURL: provider.BaseURL, APIKey: provider.APIKey,
			NoStream: !provider.Stream, NoStreamOptions: !provider.StreamOptions, TokenLimit: provider.TokenLimit, Roots: roots,
			TraceContext: provider.TraceContext, UserKey: userKey, Models: models,
			Organization: provider.Forwards(tasks.OpenAIOrganization), Project: provider.Forwards(tasks.OpenAIProject),
		},
		MaxResultBytes: s.cfg.Results.MaxBytes,
	})
	if err == nil {
		s.callers = append(s.callers, caller)
	}
	return caller, err
}

// userKey keys the hash by which a provider is told whom a call is for; nil: it is not told. It is of
// the provider's own key, the one secret that every worker has: what two providers are told has nothing in common.
func userKey(p config.Provider) ([]byte, error) {
	if !p.UserHash {
		return nil, nil
	}
	return hkdf.Key(sha256.New, []byte(p.APIKey), nil, "sluice provider's user", 32)
}

// client sends to a provider by the ways that are listed for it, which all of its pools
// share; nil: none are, and it is reached directly.
func (s *service) client(provider config.Provider, roots *x509.CertPool) (*http.Client, error) {
	listed, err := provider.Ways()
	if err != nil || len(listed) == 0 {
		return nil, err
	}
	if ways := s.ways[provider.Name]; ways != nil {
		return &http.Client{Transport: ways}, nil
	}
	c := egress.Config{Ways: listed, Log: s.log.With("provider", provider.Name)}
	c.Transport = func(dial egress.Dial) *http.Transport { return upstream.Transport(roots, dial) }
	if c.Address, c.TLS, err = upstream.Address(provider.BaseURL, roots); err != nil {
		return nil, fmt.Errorf("base_url: %w", err)
	}
	ways, err := egress.New(c)
	if err != nil {
		return nil, err
	}
	s.ways[provider.Name] = ways
	return &http.Client{Transport: ways}, nil
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
// provider: a second of what its requests allow, so that a tenant who comes late
// waits about that long behind what is already handed out.
func depthOf(l config.Limits) int {
	if l.RequestsPerMinute > 0 {
		return max(8, int(min(l.RequestsPerMinute, 120_000)/60))
	}
	if l.Concurrency > 0 {
		return max(8, l.Concurrency)
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

// run runs the parts that every role needs, and front, if set, beside them until ctx
// ends or one of them does. What front needs stops after it; so does ops, if set, by
// which others watch this process while it stops.
func (s *service) run(ctx context.Context, ops, front func(context.Context) error) error {
	// Redis is stopped last, and what the front needs before it.
	bottom, stopBottom := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBottom()
	ground, groundCtx := errgroup.WithContext(bottom)
	ground.Go(func() error { return s.redis.run(groundCtx) })
	under, stop := context.WithCancel(groundCtx)
	defer stop()
	base, baseCtx := errgroup.WithContext(under)
	s.support(baseCtx, base)
	if ops != nil {
		base.Go(func() error { return ops(baseCtx) })
	}

	// Whoever has to stop finds it said already.
	told, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	defer context.AfterFunc(ctx, func() {
		s.leaving.Store(true)
		leave()
	})()
	first, frontCtx := errgroup.WithContext(told)
	if s.worker != nil {
		first.Go(func() error {
			if s.spill != nil {
				s.spill.Try(frontCtx) // before a job whose answer lies there is taken again
			}
			return s.worker.Run(frontCtx)
		})
		first.Go(func() error { return s.deliverer.Run(frontCtx) })
	}
	if front != nil {
		first.Go(func() error {
			err := front(frontCtx)
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

// support starts the parts that what is in front needs, in base.
func (s *service) support(ctx context.Context, base *errgroup.Group) {
	base.Go(func() error { return s.notices.Run(ctx) })
	base.Go(func() error { return s.settings.Run(ctx) })
	if s.abuse != nil {
		base.Go(func() error { return s.abuse.Run(ctx) })
	}
	base.Go(func() error {
		return s.store.TendDepartures(ctx, func(err error) { s.log.Warn("go on deleting a tenant", "error", err) })
	})
	base.Go(func() error { return s.ready.Run(ctx) })
	base.Go(func() error { return s.feeder.Run(ctx) })
	if s.console != nil {
		base.Go(func() error { return s.console.Run(ctx) })
	}
	base.Go(func() error { return s.jobs.Run(ctx) })
	if s.sides != nil {
		for _, one := range s.sides.list {
			base.Go(func() error { return one.gate.Run(ctx) })
		}
	}
	if s.bodies != nil {
		base.Go(func() error { return s.bodies.Run(ctx, s.store) })
	}
	if s.verifier != nil {
		base.Go(func() error { return s.verifier.Run(ctx) })
	}
	for _, h := range s.healths {
		base.Go(func() error { return h.Run(ctx) })
	}
	for _, all := range s.accounts {
		base.Go(func() error { return all.Run(ctx, s.worker != nil) })
	}
	base.Go(func() error {
		return s.pools.Watch(ctx, s.worker != nil, func(err error) {
			s.log.Warn("what the pools' jobs wait for is not noted; their timelines say so", "error", err)
		})
	})
	if s.worker != nil {
		base.Go(func() error { return s.tellOfPools(ctx) })
	}
	if s.spill != nil {
		base.Go(func() error { return s.spill.Run(ctx) })
	}
	base.Go(func() error { return s.store.TendKeys(ctx, whom()) })
	if s.sealing.ring != nil && s.sealing.again != nil {
		base.Go(func() error { return s.reseal(ctx) })
	}
}

// errDone ends a service whose front has done what it was started for.
var errDone = errors.New("done")

func (s *service) close() error {
	for _, c := range s.callers {
		c.Close()
	}
	for _, w := range s.ways {
		w.Close()
	}
	if s.sender != nil {
		s.sender.Close()
	}
	var err error
	if s.fake != nil {
		err = s.fake.close()
	}
	if s.bodies != nil {
		s.bodies.Close()
	}
	err = errors.Join(err, s.redis.close())
	stopTracer(s.trace, s.log) // it may wait for a collector
	return err
}

// newDeliverer makes the part of a worker that sends webhooks.
func (s *service) newDeliverer(record *dispatch.Deliveries, keeps worker.Spill) error {
	headers, err := tasks.NewHeaders(s.cfg.Webhooks.Headers)
	if err != nil {
		return fmt.Errorf("webhooks.headers: %w", err)
	}
	roots, err := s.cfg.Webhooks.Roots()
	if err != nil {
		return fmt.Errorf("webhooks.ca_file: %w", err)
	}
	if s.sender, err = webhook.NewSender(webhook.SenderConfig{Guard: s.guard, MaxPerHost: 64, Headers: headers, RootCAs: roots, Registerer: s.registry}); err != nil {
		return err
	}
	s.deliverer, err = worker.NewDeliverer(worker.DelivererConfig{
		Redis: s.redis.open(32), Prefix: s.cfg.Redis.Prefix, Record: record, Spill: keeps, Hand: s.feeder.HandDeliveries, Sender: s.sender,
		Base: s.base, Log: s.log, Metrics: s.registry, Trace: s.trace,
	})
	return err
}

// crowd pauses the pools while Redis is nearly full, and lets them go on.
func (s *service) crowd(ctx context.Context, full bool) {
	for name, b := range s.breakers {
		if err := b.Memory(ctx, full); err != nil && ctx.Err() == nil {
			s.log.Warn("a pool does not follow redis's memory yet", "pool", name, "error", err)
		}
	}
}

// base is the beginning of links in webhooks.
func (s *service) base() string {
	if public := s.public.Load(); public != nil {
		return *public
	}
	return s.cfg.PublicURL
}

// poolsEvery is how often the pools are looked at for a pause to tell of.
const poolsEvery = time.Second

// tellOfPools tells the endpoints that want to know when a pool is paused or
// goes on, until ctx ends. Any number of processes may; each change is told once.
func (s *service) tellOfPools(ctx context.Context) error {
	tick := time.NewTicker(poolsEvery)
	defer tick.Stop()
	for ; ctx.Err() == nil; nextTick(ctx, tick.C) {
		list, err := s.pools.Status(ctx)
		s.ready.gated(err)
		if err != nil {
			continue // Redis is away, which others say
		}
		for _, p := range list {
			_, body, err := webhook.PoolEvent(p, s.base())
			if err == nil {
				err = s.store.PoolEvent(ctx, p.Name, p.State == tasks.PoolPaused, body)
			}
			if err != nil && ctx.Err() == nil {
				s.log.Warn("a pool's state was not told", "pool", p.Name, "error", err)
			}
		}
	}
	return nil
}

// nextTick waits for the next tick or for ctx's end.
func nextTick(ctx context.Context, tick <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-tick:
	}
}
