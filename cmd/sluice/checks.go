package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/cmd/sluice/config"
)

// ConfigCmd holds the commands about the configuration.
type ConfigCmd struct {
	Check ConfigCheckCmd `cmd:"" help:"Name every fault of the configuration, or print what is in force, secrets masked."`
}

// ConfigCheckCmd validates the configuration.
type ConfigCheckCmd struct{}

// Run prints the configuration in force, or fails with all its faults.
func (ConfigCheckCmd) Run(env *Env) error {
	c, err := env.Config()
	if err != nil {
		return err
	}
	secret, err := apiSecret(c)
	if err != nil {
		return err
	}
	if secret == nil && c.Auth.JWKSURL == "" && c.Auth.JWKSFile == "" && len(c.Auth.Issuers) == 0 {
		_, err = fmt.Fprintln(env.Stdout, "# No key is set to verify tokens with: sluice api would not start; sluice dev makes a secret of its own.")
	} else {
		_, err = newVerifier(c.Auth, secret, nil, nil, nil) // reads the files of keys
	}
	if err != nil {
		return err
	}
	return c.Print(env.Stdout)
}

// TokenCmd mints a token.
type TokenCmd struct {
	Tenant  string        `required:"" help:"Whose jobs the token opens."`
	Scope   string        `default:"jobs:read jobs:write" help:"What it allows, separated by spaces. Others: webhooks:write, monitor, admin, content."`
	TTL     time.Duration `name:"ttl" default:"1h" help:"How long it is valid."`
	Subject string        `help:"Who it is for (default: the tenant)."`
	Models  []string      `help:"The only models that it may ask; * stands for any text (default: all)."`
}

// Run prints the token.
func (c *TokenCmd) Run(env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	if c.TTL <= 0 || c.TTL > cfg.Auth.MaxLifetime {
		return wrongUsage{fmt.Errorf("--ttl %s is not above zero and at most auth.max_lifetime, %s", config.FormatDuration(c.TTL), config.FormatDuration(cfg.Auth.MaxLifetime))}
	}
	secret, err := cfg.Secret()
	if err != nil {
		return err
	}
	if secret == nil {
		return errors.New("there is no secret to sign with: set auth.hmac_secret (SLUICE_AUTH__HMAC_SECRET), or start sluice dev once, which makes one")
	}
	token, err := auth.Mint(auth.MintConfig{
		Secret: secret, Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience,
		Subject: firstSet(c.Subject, c.Tenant), Tenant: c.Tenant, Scopes: strings.Fields(c.Scope), Models: c.Models, TTL: c.TTL,
	})
	if err != nil {
		return wrongUsage{err}
	}
	_, err = fmt.Fprintln(env.Stdout, token)
	return err
}

// HealthcheckCmd asks a running process whether it is ready, for a container
// that has no other program in it.
type HealthcheckCmd struct {
	URL string `arg:"" optional:"" help:"Address (default: /readyz of ops_listen)."`
}

// healthTimeout is below the interval at which container engines ask.
const healthTimeout = 5 * time.Second

// Run fails unless the answer is 200.
func (c *HealthcheckCmd) Run(ctx context.Context, env *Env) error {
	target := c.URL
	if target == "" {
		cfg, err := env.Config()
		if err != nil {
			return err
		}
		target = config.LocalURL(cfg.OpsListen) + "/readyz"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return wrongUsage{err}
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", target, res.Status)
	}
	return nil
}
