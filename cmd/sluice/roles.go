package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks/dispatch"
	"github.com/sluicehq/sluice/worker/pool"
)

// DevCmd is everything in one process.
type DevCmd struct {
	Grace time.Duration `default:"30s" help:"How long calls and requests in flight may take after a stop signal."`
}

// Run says how to use what it starts, and serves until ctx ends.
func (c *DevCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	secret, err := cfg.EnsureSecret()
	if err != nil {
		return err
	}
	token, err := auth.Mint(auth.MintConfig{
		Secret: secret, Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience, Subject: "dev", Tenant: "dev",
		Scopes: []string{auth.ScopeJobsRead, auth.ScopeJobsWrite, auth.ScopeWebhooksWrite, auth.ScopeMonitor, auth.ScopeAdmin},
		TTL:    cfg.Auth.MaxLifetime,
	})
	if err != nil {
		return err
	}
	if cfg.UsesFake() {
		fmt.Fprintln(env.Stderr, "sluice: "+fakeNotice)
	}
	log := env.Log
	if terminal(env.Stderr) { // where a line a request would push the token out of sight
		log = env.forReader()
	}
	return serveAPI(ctx, cfg, roles{api: true, worker: true, ownKey: true, again: env.Config, grace: c.Grace}, log, secret, func(url string) {
		fmt.Fprintf(env.Stdout, "API      %s\nconsole  %s/   (sign in with the token)\nmonitor  %s/monitoring\ndocs     %s/docs\n\nexport SLUICE_URL=%s\nexport SLUICE_TOKEN=%s\n",
			url, url, url, url, url, token)
	})
}

// APICmd is the role that speaks HTTP.
type APICmd struct {
	Grace time.Duration `default:"30s" help:"How long requests in flight may take after a stop signal."`
}

// WorkerCmd is the role that asks the providers.
type WorkerCmd struct {
	Grace time.Duration `default:"30s" help:"How long calls in flight may take after a stop signal."`
}

// Run serves until ctx ends.
func (c *APICmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	secret, err := apiSecret(cfg)
	if err != nil {
		return err
	}
	return serveAPI(ctx, cfg, roles{api: true, again: env.Config, grace: c.Grace}, env.Log, secret, nil)
}

// apiSecret is what sluice api verifies tokens of our own with: the configured secret, or
// the kept one where nothing else is configured. Nil: no secret.
func apiSecret(cfg *config.Config) ([]byte, error) {
	if cfg.Auth.HMACSecret != "" {
		return []byte(cfg.Auth.HMACSecret), nil
	}
	if cfg.Auth.JWKSURL != "" || cfg.Auth.JWKSFile != "" || len(cfg.Auth.Issuers) > 0 {
		return nil, nil
	}
	return cfg.Secret()
}

// Run works until ctx ends.
func (c *WorkerCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	return serveWorker(ctx, cfg, roles{worker: true, again: env.Config, grace: c.Grace}, env.Log)
}

// serveAPI runs the API and the console, alone or with a worker in the same
// process. ready, if set, is called with the address once it listens.
func serveAPI(ctx context.Context, cfg *config.Config, r roles, log *slog.Logger, secret []byte, ready func(url string)) error {
	s, err := newService(ctx, cfg, r, log)
	if err != nil {
		return err
	}
	err = s.serveAPI(ctx, secret, ready)
	return errors.Join(err, s.close())
}

func (s *service) serveAPI(ctx context.Context, secret []byte, ready func(url string)) error {
	l, err := listenOn("listen (SLUICE_LISTEN)", s.cfg.Listen)
	if err != nil {
		return err
	}
	public := s.cfg.PublicFor(l.Addr())
	a, err := s.newAPI(public, secret)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return s.run(ctx, s.serveOps, func(ctx context.Context) error {
		if ready != nil {
			ready(public)
		}
		s.log.Info("listening", "address", l.Addr().String())
		return s.serve(ctx, s.room.Listen(l), a.Handler(), parting{s.delay, s.grace, func() { a.Drain(); s.console.Drain() }})
	})
}

// serveWorker runs a worker.
func serveWorker(ctx context.Context, cfg *config.Config, r roles, log *slog.Logger) error {
	s, err := newService(ctx, cfg, r, log)
	if err != nil {
		return err
	}
	if cfg.UsesFake() {
		log.Warn(fakeNotice)
	}
	log.Info("worker started", "pools", len(cfg.Pools))
	return errors.Join(s.run(ctx, s.serveOps, nil), s.close())
}

var (
	_ api.Jobs       = (*dispatch.Jobs)(nil)
	_ api.Batches    = (*dispatch.Jobs)(nil)
	_ api.Pools      = (*pool.Set)(nil)
	_ v1.PoolControl = (*pool.Set)(nil)
)
