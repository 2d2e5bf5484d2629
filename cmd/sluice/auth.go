package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluicehq/sluice/api/auth"
)

// AuthCmd holds the commands about tokens.
type AuthCmd struct {
	Check AuthCheckCmd `cmd:"" help:"Say in words whether a token is accepted by this configuration, and why not."`
}

// AuthCheckCmd explains a token. It stays on this machine: only the issuers' key sets
// are fetched.
type AuthCheckCmd struct {
	Token string `arg:"" help:"The token; - reads it from standard input, where no list of processes shows it."`
	JSON  bool   `name:"json" help:"Print one JSON object."`
}

// maxTokenInput bounds what is read of standard input, in bytes.
const maxTokenInput = 1 << 20

// Run prints the fate of each part of the token, and fails unless it is accepted.
func (c *AuthCheckCmd) Run(ctx context.Context, env *Env) error {
	raw := c.Token
	if raw == "-" {
		b, err := io.ReadAll(io.LimitReader(env.Stdin, maxTokenInput))
		if err != nil {
			return fmt.Errorf("read the token: %w", err)
		}
		raw = string(b)
	}
	raw = strings.TrimSpace(raw)
	if scheme, rest, ok := strings.Cut(raw, " "); ok && strings.EqualFold(scheme, "Bearer") {
		raw = strings.TrimSpace(rest)
	}
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	secret, err := apiSecret(cfg)
	if err != nil {
		return err
	}
	v, err := newVerifier(cfg.Auth, secret, nil, env.Log, nil)
	if err != nil {
		return err
	}
	findings, claims, refused := v.Explain(ctx, raw)
	if c.JSON {
		return printJudged(env.Stdout, findings, claims, refused)
	}
	for _, f := range findings {
		mark := "ok   "
		if !f.Good {
			mark = "FAULT"
		}
		if _, err := fmt.Fprintf(env.Stdout, "%s  %-9s  %s\n", mark, f.About, f.Text); err != nil {
			return err
		}
	}
	if r, ok := errors.AsType[*auth.Refusal](refused); ok {
		return fmt.Errorf("refused (%s): %s", r.Reason, r.Text)
	}
	if refused != nil {
		return refused
	}
	_, err = fmt.Fprintf(env.Stdout, "accepted: tenant %s, subject %q, scopes %q\n", claims.Tenant, claims.Subject, claims.Scopes)
	return err
}

// judged is what auth check says of a token, as JSON.
type judged struct {
	Accepted bool      `json:"accepted"`
	Reason   string    `json:"reason,omitempty"` // why it is refused, in one word
	Detail   string    `json:"detail,omitempty"` // and in words
	Tenant   string    `json:"tenant,omitempty"`
	Subject  string    `json:"subject,omitempty"`
	Scopes   []string  `json:"scopes,omitempty"`
	Findings []finding `json:"findings"`
}

type finding struct {
	About string `json:"about"`
	Good  bool   `json:"ok"`
	Text  string `json:"text"`
}

// printJudged prints the fate of a token, and fails unless it is accepted.
func printJudged(out io.Writer, findings []auth.Finding, claims auth.Claims, refused error) error {
	j := judged{Accepted: refused == nil, Findings: []finding{}}
	for _, f := range findings {
		j.Findings = append(j.Findings, finding{f.About, f.Good, f.Text})
	}
	r, ok := errors.AsType[*auth.Refusal](refused)
	switch {
	case ok:
		j.Reason, j.Detail = r.Reason, r.Text
		refused = fmt.Errorf("refused (%s): %s", r.Reason, r.Text)
	case refused != nil:
		j.Detail = refused.Error()
	default:
		j.Tenant, j.Subject, j.Scopes = claims.Tenant, claims.Subject, claims.Scopes
	}
	return errors.Join(printValue(out, j), refused)
}
