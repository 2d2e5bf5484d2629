package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"github.com/sluicehq/sluice/worker/upstream"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/abuse"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/caps"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/queue"
	"github.com/sluicehq/sluice/web"
)

// checks are the parts that this process needs to be ready.
func (s *service) checks() []api.Check {
	return append(slices.Concat(s.ready.checks(), s.keys(), s.bodiesChecks()),
		api.Check{Name: "parts", Check: func(context.Context) error {
			if s.leaving.Load() {
				return api.Down("this process stops", nil)
			}
			if !s.up.Load() {
				return api.Down("a part has not started or has stopped", nil)
			}
			return nil
		}},
		api.Check{Name: "provider", Check: func(context.Context) error {
			if away, _ := s.away(); len(away) > 0 {
				return api.Down(strings.Join(away, "; "), nil)
			}
			return nil
		}},
	)
}

// operations is what /readyz answers.
func (s *service) operations() api.OperationsConfig {
	return api.OperationsConfig{
		Checks: s.checks(),
		Notices: func() []string {
			if s.cfg.UsesFake() {
				return append(s.notes(), fakeNotice)
			}
			return s.notes()
		},
	}
}

// away names the pools and accounts whose provider this process cannot reach while others can,
// and of these the pools of which it can reach no account.
func (s *service) away() (down, all []string) {
	for _, p := range s.cfg.Pools {
		var lines []string
		accounts := s.cfg.AccountsOf(p)
		for _, a := range accounts {
			name, what := p.Name, "pool "+p.Name
			if p.Several() {
				name += "." + a.ID
				what = "account " + a.ID + " of " + what
			}
			if why := s.healths[name].Away(); why != "" {
				lines = append(lines, fmt.Sprintf("this process cannot reach the provider of %s (%s) and others can: it takes none of its jobs until it does; see to its network, its proxy and the provider's base_url here", what, why))
			}
		}
		if all = append(all, lines...); len(lines) == len(accounts) {
			down = append(down, lines...)
		}
	}
	return down, all
}

// notes are what an operator should know although everything works. That the fake
// provider answers, the console says in its own way.
func (s *service) notes() []string {
	_, away := s.away()
	list := append(s.ready.notices(), away...)
	if s.noSpill != "" {
		list = append(list, s.noSpill)
	}
	list = append(list, s.sealNotices()...)
	for _, set := range s.keySets() {
		if set.Down != "" {
			list = append(list, set.Down)
		}
		list = append(list, set.Notices...)
	}
	return list
}

// keySets is how the key sets stand that tokens are verified with; nil in a process
// that verifies none.
func (s *service) keySets() []auth.KeySet {
	if s.verifier == nil {
		return nil
	}
	return s.verifier.KeySets()
}

// bodiesChecks is the part of readiness that is about the store of large bodies: a
// trial that this process makes again and again.
func (s *service) bodiesChecks() []api.Check {
	if s.bodies == nil {
		return nil
	}
	return []api.Check{{Name: "bodies", Check: func(context.Context) error {
		if err := s.bodies.Ready(); err != nil {
			return api.Down("the store of bodies ("+s.bodies.Where()+") cannot be used", errors.Unwrap(err))
		}
		return nil
	}}}
}

// keys are the parts of readiness that are about key sets: down while no token at all can
// be judged. A set that has never been had, or not for a day, beside a secret or another
// set is a notice: who has tokens of theirs is served.
func (s *service) keys() []api.Check {
	if s.verifier == nil {
		return nil
	}
	return []api.Check{{Name: "keys", Check: func(context.Context) error {
		var down []string
		var causes []error
		for _, set := range s.keySets() {
			if set.Down != "" {
				down, causes = append(down, set.Down), append(causes, set.Cause)
			}
		}
		if len(down) == 0 || s.secret || len(down) < len(s.keySets()) {
			return nil
		}
		return api.Down(strings.Join(down, "; "), errors.Join(causes...))
	}}}
}

// newVerifier makes the judge of tokens, which has the secret and the ledger unless they are nil.
func newVerifier(c config.Auth, secret []byte, ledger auth.Ledger, log *slog.Logger, metrics prometheus.Registerer) (*auth.Verifier, error) {
	return auth.New(auth.Config{
		Issuer: c.Issuer, Audience: c.Audience, MaxLifetime: c.MaxLifetime,
		SeparateUsers: c.Users == config.UsersSeparate,
		HMACSecret:    secret, JWKSFile: c.JWKSFile, JWKSURL: c.JWKSURL, Issuers: c.Foreign(), Ledger: ledger,
		Log: log, Metrics: metrics,
	})
}

// watch makes what looks at submits, and returns nil where nobody is to. Its hashes are keyed by what all
// processes have in common: the secret that signs tokens, else who issues them.
func (s *service) watch(secret []byte) (api.Abuse, error) {
	c := s.cfg.Abuse
	if len(secret) == 0 {
		secret = []byte(s.cfg.Redis.Prefix + "\x00" + s.cfg.Auth.Issuer + "\x00" + s.cfg.Auth.JWKSURL)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "sluice abuse", 32)
	if err != nil {
		return nil, err
	}
	w := abuse.Config{Store: s.store, Secret: key, Window: c.Window, Learn: c.Learn, Enforce: c.Mode == "enforce", Registerer: s.registry, Log: s.log, Now: s.clock.Now}
	if c.Mode == "off" {
		w.Registerer = nil
	}
	if s.abuse, err = abuse.New(w); err != nil || c.Mode == "off" {
		return nil, err // an API without one is meant; what waits for a review all the same goes on
	}
	return s.abuse, nil
}

// flags is what the console asks of whoever watches; nil where nobody does.
func flags(watch api.Abuse) (flagged func(context.Context) ([]web.Flagged, error), release func(context.Context, string, tasks.Act) error) {
	if watch == nil {
		return nil, nil
	}
	return func(ctx context.Context) (list []web.Flagged, err error) {
		all, err := watch.All(ctx)
		for i := range all {
			f := web.Flagged{Tenant: all[i].Tenant, Action: all[i].Action.String()}
			for _, flag := range all[i].Flags {
				f.Found = append(f.Found, flag.String())
			}
			list = append(list, f)
		}
		return list, err
	}, watch.Release
}

// newAPI makes the API with the console beside it, for public, the address
// that links begin with. Tokens are verified with secret unless it is nil.
func (s *service) newAPI(public string, secret []byte) (*api.API, error) {
	verifier, err := newVerifier(s.cfg.Auth, secret, s.store, s.log, s.registry)
	if err != nil {
		return nil, err
	}
	s.verifier, s.secret = verifier, secret != nil
	// Whoever changes the secret because it is known ends what was signed in with it.
	var key []byte
	if len(secret) > 0 {
		if key, err = hkdf.Key(sha256.New, secret, nil, "sluice console session", 32); err != nil {
			return nil, err
		}
	}
	if s.room, err = s.newRoom(); err != nil {
		return nil, err
	}
	watch, err := s.watch(secret)
	if err != nil {
		return nil, err
	}
	jobs := &consoleJobs{Store: s.store, jobs: s.jobs, pools: s.pools, now: s.clock.Now}
	flagged, release := flags(watch)
	console, err := web.New(web.Config{
		Flagged: flagged, Release: release,
		Jobs: jobs, Batches: jobs, Submit: jobs.submit, Upload: jobs.upload, Follow: jobs.follow, Partials: s.store, Usage: jobs, Note: s.note, Webhooks: endpoints{s.store, s.quota, s.log}, Audit: s.store.Acts, Tenants: overseen{tenancy{s}, keeper{s.store, verifier}},
		Redis: lent{s.rdb}, Verifier: identities{verifier}, SeparateUsers: s.cfg.Auth.Users == config.UsersSeparate, PublicURL: public, Status: s.pools.Status, Pools: s.pools, Processes: s.store.Processes, Memory: s.ready.memory,
		Pause: func(ctx context.Context, pool, reason string, until time.Time, who web.Actor) error {
			return s.audited(ctx, who, tasks.Act{Action: "pause", Target: pool, Reason: tasks.PauseReason(reason, until)}, func(ctx context.Context) error {
				return s.pools.Pause(ctx, pool, reason, who.Subject, until)
			})
		},
		Resume: func(ctx context.Context, pool string, who web.Actor) error {
			return s.audited(ctx, who, tasks.Act{Action: "resume", Target: pool}, func(ctx context.Context) error { return s.pools.Resume(ctx, pool, who.Subject) })
		},
		PoolOf: s.poolOf, Ours: func(name string) bool { return queue.Own(s.cfg.Redis.Prefix, name) }, Revoked: verifier.Revoked,
		Fake: s.cfg.UsesFake(), Notices: s.notes, Version: version, Sessions: s.store, SessionKey: key, Failed: s.room.Failed, HTTPS: s.room.HTTPS, Now: s.clock.Now, Log: s.log, Metrics: s.registry,
	})
	if err != nil {
		return nil, err
	}
	s.console = console
	s.public.Store(&public)
	pages := map[string]http.Handler{}
	for _, path := range web.Paths() {
		pages[path] = console
	}
	if s.sides, err = s.newSides(string(upstream.Anthropic)); err != nil {
		return nil, err
	}
	a, err := api.New(api.Config{
		Anthropic: s.sides,
		Jobs:      s.jobs, Calls: s.jobs, Batches: s.jobs, Notices: s.notices, Partials: s.store, Documents: s.store, Pools: s.pools, PoolControl: s.pools, Quota: s.quota, Returns: s.quota.Returns(), High: func(tenant string) bool { return s.limitsOf(tenant).HighPriority },
		Verifier: verifier, Follow: verifier.Follow, Tokens: keeper{s.store, verifier}, Audit: s.store, Usage: s.store, Tenants: tenancy{s}, Quotas: s.quota, Abuse: watch, Prices: s.cfg.PriceList(), Mint: minting(s.cfg.Auth, secret),
		CheckWebhookURL: s.guard.CheckURL, Webhooks: endpoints{s.store, s.quota, s.log},
		NewID: s.newID, Now: s.clock.Now, PublicURL: public, Operations: s.operations(), Extra: pages, Lost: console, Caps: s.room, MaxWait: s.cfg.MaxWait, AllowOrigins: s.cfg.CORS.AllowOrigins,
		Registerer: s.registry, Log: s.log, Trace: s.trace, KeepAlive: s.keepAlive,
	})
	if err == nil {
		jobs.desk, jobs.api = a.Desk(), a
	}
	return a, err
}

// poolOf names the pool of a queue of Asynq's.
func (s *service) poolOf(name string) (pool string, ok bool) {
	for _, p := range s.cfg.Pools {
		if queue.Name(s.cfg.Redis.Prefix, p.Name) == name {
			return p.Name, true
		}
	}
	return "", false
}

// newRoom returns what the API has for its callers.
func (s *service) newRoom() (*caps.Room, error) {
	proxies, err := s.cfg.Proxies()
	if err != nil {
		return nil, err
	}
	c := s.cfg.Caps
	return caps.New(caps.Config{
		Connections: c.Connections, Requests: c.Requests, Streams: c.Streams, Uploads: c.Uploads, BodyBytes: c.BodyBytes, FailedTokens: c.FailedTokens,
		TenantRequests: c.Tenant.Requests, TenantStreams: c.Tenant.Streams, TenantUploads: c.Tenant.Uploads,
		TrustedProxies: proxies, Registerer: s.registry,
	})
}

// identities shows the API's verifier to the console.
type identities struct{ v *auth.Verifier }

// Verify checks a token.
func (i identities) Verify(ctx context.Context, raw string) (web.Identity, error) {
	c, err := i.v.Verify(ctx, raw)
	return web.Identity{Subject: c.Subject, Tenant: c.Tenant, Token: c.ID, Scopes: c.Scopes, Models: c.Models, Pools: c.Pools, ExpiresAt: c.ExpiresAt, Unsure: c.Unsure}, err
}

// left has each answer close its connection while this process is to be left: a proxy
// that keeps it asks elsewhere from then on, and none is cut off with a request on it.
func (s *service) left(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// parting is how a server ends.
type parting struct {
	delay time.Duration // it answers on for so long, while /readyz says that the process stops
	grace time.Duration // then requests in flight have so long to end
	drain func()        // makes it let go of those that it holds; nil: it holds none
}

// serve runs an HTTP server until ctx ends and it has parted.
func (s *service) serve(ctx context.Context, l net.Listener, h http.Handler, p parting) error {
	srv := &http.Server{
		Handler: s.left(h), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Minute, IdleTimeout: 90 * time.Second,
		MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	entrance := newDoor(l)
	srv.ConnState = entrance.became
	done := make(chan error, 1)
	go func() { done <- srv.Serve(entrance) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	if p.delay > 0 {
		s.log.Info("stopping: requests are answered for drain_delay more", "drain_delay", p.delay.String())
		<-time.After(p.delay)
	}
	entrance.leave()
	<-done // all that was accepted is known to the server, so that Shutdown waits for it
	if p.drain != nil {
		p.drain()
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.grace)
	defer cancel()
	entrance.answered(stopCtx)
	err := srv.Shutdown(stopCtx)
	if err != nil {
		s.log.Warn("requests that outlasted the grace period are cut off", "address", l.Addr().String())
		err = srv.Close()
	}
	return err
}

// opsGrace is what a profile that is being taken gets when all else has ended.
const opsGrace = time.Second

// serveOps serves metrics, health and profiles until ctx ends, which is when the work of
// this process has: while calls in flight end, /readyz says that it stops. A port that is
// taken, as by another worker on the same machine, is replaced by a free one.
func (s *service) serveOps(ctx context.Context) error {
	l, err := net.Listen("tcp", s.cfg.OpsListen)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(s.cfg.OpsListen)
		if splitErr != nil {
			return fmt.Errorf("ops_listen: %w", err)
		}
		taken := err
		if l, err = listenOn("ops_listen (SLUICE_OPS_LISTEN)", net.JoinHostPort(host, "0")); err != nil {
			return err
		}
		s.log.Warn("ops_listen (SLUICE_OPS_LISTEN) cannot be used, perhaps since Prometheus has the same port; metrics and health are at another one", "error", taken, "address", l.Addr().String())
	}
	s.log.Info("metrics and health", "address", l.Addr().String())
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
	return s.serve(ctx, l, hosted(s.cfg.OpsHosts, mux), parting{grace: opsGrace})
}
