package main

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"

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

// endpoints is the store as the API's webhook routes see it; keys are made here.
type endpoints struct{ *store.Store }

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
