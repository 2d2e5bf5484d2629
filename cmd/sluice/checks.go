package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
type ConfigCheckCmd struct {
	Role string `enum:"api,worker,dev" default:"dev" help:"For which process: api needs a key to verify tokens with; worker and dev do not."`
	JSON bool   `name:"json" help:"Print one JSON object: the configuration, or its faults."`
}

// Run prints the configuration in force, or fails with all its faults.
func (c ConfigCheckCmd) Run(env *Env) error {
	cfg, notices, err := checked(env, c.Role)
	if c.JSON {
		return errors.Join(printChecked(env.Stdout, cfg, notices, err), err)
	}
	for _, notice := range notices {
		if _, err := fmt.Fprintln(env.Stdout, "# "+notice); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return cfg.Print(env.Stdout)
}

var errNoKeys = errors.New("auth.hmac_secret, auth.jwks_file, auth.jwks_url or auth.issuers: one is needed to verify tokens with; sluice dev makes a secret of its own")

// checked reads the configuration for a role, and the files that it names.
func checked(env *Env, role string) (c *config.Config, notices []string, err error) {
	if c, err = env.Config(); err != nil {
		return nil, nil, err
	}
	secret, err := apiSecret(c)
	if err != nil {
		return nil, nil, err
	}
	if secret == nil && c.Auth.JWKSURL == "" && c.Auth.JWKSFile == "" && len(c.Auth.Issuers) == 0 {
		if role == "api" {
			return c, c.Notices(), errNoKeys
		}
		return c, append(c.Notices(), "No key is set to verify tokens with: sluice api would not start; sluice dev makes a secret of its own."), nil
	}
	_, err = newVerifier(c.Auth, secret, nil, nil, nil) // reads the files of keys
	return c, c.Notices(), err
}

// printChecked prints what was found as one JSON object.
func printChecked(out io.Writer, c *config.Config, notices []string, err error) error {
	said := struct {
		OK      bool            `json:"ok"`
		Faults  []string        `json:"faults"`
		Notices []string        `json:"notices"`
		Config  json.RawMessage `json:"config,omitempty"` // secrets masked
	}{err == nil, []string{}, append([]string{}, notices...), nil}
	if faults, ok := errors.AsType[config.Faults](err); ok {
		for _, f := range faults {
			said.Faults = append(said.Faults, f.Error())
		}
	} else if err != nil {
		said.Faults = append(said.Faults, err.Error())
	}
	if err == nil {
		plain, err := c.JSON()
		if err != nil {
			return err
		}
		said.Config = plain
	}
	return printValue(out, said)
}

// printValue prints a value as one line of JSON.
func printValue(out io.Writer, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return printLine(out, b)
}

// TokenCmd mints a token.
type TokenCmd struct {
	Tenant  string        `required:"" help:"Whose jobs the token opens."`
	Scope   string        `default:"jobs:read jobs:write" help:"What it allows, separated by spaces. Others: webhooks:write, monitor, admin, content."`
	TTL     time.Duration `name:"ttl" default:"1h" help:"How long it is valid."`
	Subject string        `help:"Who it is for (default: the tenant)."`
	Models  []string      `help:"The only models that it may ask; * stands for any text (default: all)."`
	Pools   []string      `name:"pool" help:"The only pools that it may use; * stands for any text (default: all)."`
	JSON    bool          `name:"json" help:"Print one JSON object: the token, its id (jti), and when it ends."`
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
		Subject: firstSet(c.Subject, c.Tenant), Tenant: c.Tenant, Scopes: strings.Fields(c.Scope), Models: c.Models, Pools: c.Pools, TTL: c.TTL,
	})
	if err != nil {
		return wrongUsage{err}
	}
	if c.JSON {
		return printMinted(env.Stdout, token)
	}
	_, err = fmt.Fprintln(env.Stdout, token)
	return err
}

// printMinted prints a token of our own with what it says of itself.
func printMinted(out io.Writer, token string) error {
	var claims struct {
		ID      string `json:"jti"`
		Expires int64  `json:"exp"`
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err = errors.Join(err, json.Unmarshal(b, &claims)); err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	return printValue(out, struct {
		ID      string    `json:"id"`
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}{claims.ID, token, time.Unix(claims.Expires, 0).UTC()})
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
