package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"time"

	"github.com/sluicehq/sluice/api/quota"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/worker/webhook"
)

// newGuard decides where webhooks may go.
func newGuard(cfg *config.Config) (*webhook.Guard, error) {
	g := webhook.GuardConfig{AllowHTTP: cfg.Webhooks.AllowHTTP, AllowPrivate: cfg.Webhooks.AllowPrivate, AllowHosts: cfg.Webhooks.AllowHosts}
	if u, err := url.Parse(cfg.PublicURL); err == nil && u.Hostname() != "" {
		g.OwnHosts = []string{u.Hostname()}
	}
	for _, n := range cfg.Webhooks.DenyNetworks {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return nil, fmt.Errorf("webhooks.deny_networks: %w", err)
		}
		g.DenyPrefixes = append(g.DenyPrefixes, p)
	}
	return webhook.NewGuard(g)
}

// newSecret makes a signing secret in its whsec_ form.
func newSecret() string { return webhook.NewSecret().Reveal() }

// endpoints is the store as everybody sees it who looks after webhooks. Keys are made
// here, and what is sent because somebody asks for it is counted.
type endpoints struct {
	*store.Store
	quota *quota.Quota
	log   *slog.Logger
}

// TestEndpoint sends an event of no meaning.
func (e endpoints) TestEndpoint(ctx context.Context, tenant, id string) (tasks.Delivery, error) {
	return e.resend(ctx, tenant, id, e.Store.TestEndpoint)
}

// Redeliver sends a delivery again.
func (e endpoints) Redeliver(ctx context.Context, tenant, id string) (tasks.Delivery, error) {
	return e.resend(ctx, tenant, id, e.Store.Redeliver)
}

// RedeliverRange sends as many deliveries again as the tenant's quota lets through.
func (e endpoints) RedeliverRange(ctx context.Context, f tasks.Resend) (tasks.Resent, error) {
	return e.Store.RedeliverRange(ctx, f, func(ctx context.Context, n int) (int, error) {
		paid, err := e.quota.Resend(ctx, f.Tenant, int64(n))
		return int(paid.Taken), err
	})
}

// resend sends one delivery that is paid for. What was surely not sent costs nothing.
func (e endpoints) resend(ctx context.Context, tenant, id string, send func(ctx context.Context, tenant, id string) (tasks.Delivery, error)) (tasks.Delivery, error) {
	paid, err := e.quota.Resend(ctx, tenant, 1)
	if err != nil {
		return tasks.Delivery{}, err
	}
	d, err := send(ctx, tenant, id)
	if err != nil && !errors.Is(err, tasks.ErrUnknown) {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := e.quota.Refund(back, tenant, paid); err != nil {
			e.log.Warn("give a resend back", "error", err)
		}
	}
	return d, err
}

func newKeys(signature string) tasks.SigningKeys {
	k := tasks.SigningKeys{Secret: newSecret()}
	if signature == "v1a" {
		k.Private = webhook.NewPrivateKey().Reveal()
	}
	return k
}

// CreateEndpoint keeps an endpoint with keys of its own.
func (e endpoints) CreateEndpoint(ctx context.Context, made tasks.Endpoint) (tasks.Endpoint, error) {
	made.Keys = newKeys(made.Signature)
	return e.Store.CreateEndpoint(ctx, made)
}

// RotateEndpoint replaces an endpoint's keys.
func (e endpoints) RotateEndpoint(ctx context.Context, tenant, id string) (tasks.Endpoint, error) {
	was, err := e.Endpoint(ctx, tenant, id)
	if err != nil {
		return was, err
	}
	was.Keys, err = e.RotateKeys(ctx, tenant, id, newKeys(was.Signature))
	return was, err
}

// RotateTenantKeys replaces the keys that sign for jobs' own addresses.
func (e endpoints) RotateTenantKeys(ctx context.Context, tenant string) (tasks.SigningKeys, error) {
	return e.RotateKeys(ctx, tenant, "", newKeys("v1"))
}

// PublicKey is what a receiver verifies v1a with, in its whpk_ form.
func (e endpoints) PublicKey(k tasks.SigningKeys) string {
	private, err := webhook.ParsePrivateKey(k.Private)
	if err != nil {
		return ""
	}
	return private.Public().String()
}
