package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	v1 "github.com/sluicehq/sluice/api/v1"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
	"github.com/sluicehq/sluice/web"
)

// keeper is the record of tokens, and has this process know at once what it revokes.
type keeper struct {
	*store.Store
	verifier *auth.Verifier
}

// RevokeToken has every process refuse a token within a second.
func (k keeper) RevokeToken(ctx context.Context, id string, act tasks.Act) error {
	if err := k.Store.RevokeToken(ctx, id, k.verifier.Longest(), act); err != nil {
		return err
	}
	_ = k.verifier.Refresh(ctx) // else it is asked within a second
	return nil
}

// minting signs the tokens that the server keeps; nil where there is no secret.
func minting(c config.Auth, secret []byte) func(tasks.Token) (string, error) {
	if len(secret) == 0 {
		return nil
	}
	return func(t tasks.Token) (string, error) {
		return auth.Mint(auth.MintConfig{
			Secret: secret, Issuer: c.Issuer, Audience: c.Audience, Subject: t.Subject, Tenant: t.Tenant, Scopes: t.Scopes, Models: t.Models, Pools: t.Pools,
			ID: t.ID, TTL: t.Expires.Sub(t.Created), Now: func() time.Time { return t.Created },
		})
	}
}

// audited does what somebody asks for by the console or asynqmon once that is in the audit.
func (s *service) audited(ctx context.Context, who web.Actor, act tasks.Act, do func(ctx context.Context) error) error {
	act.At, act.By, act.Tenant, act.Via = s.clock.Now(), who.Subject, tasks.TenantOf(who.Tenant), who.Via
	act.ID = store.NewIDAt("act", act.At)
	return v1.Audited(ctx, s.store, act, do)
}

// TokensCmd holds the commands about tokens that the server keeps.
type TokensCmd struct {
	Create TokensCreateCmd `cmd:"" help:"Make a token that the server keeps and print it; it is shown once."`
	List   TokensListCmd   `cmd:"" default:"withargs" help:"List the tokens that the server keeps."`
	Revoke TokensRevokeCmd `cmd:"" help:"Take a token back, whoever made it, by its id (jti)."`
}

// TokensCreateCmd makes a token.
type TokensCreateCmd struct {
	Tenant      string   `required:"" help:"Whose jobs the token opens."`
	Name        string   `required:"" help:"What the token is called in lists."`
	Scope       string   `default:"jobs:read jobs:write" help:"What it allows, separated by spaces. Others: webhooks:write, monitor, admin, content."`
	TTL         string   `name:"ttl" default:"90d" help:"How long it is valid, as in 720h or 90d; at most 10 years."`
	Subject     string   `name:"sub" help:"Who it is for (default: the name)."`
	Models      []string `help:"The only models that it may ask; * stands for any text (default: all)."`
	Pools       []string `name:"pool" help:"The only pools that it may use; * stands for any text (default: all)."`
	JSON        bool     `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run prints the token alone, and its id on stderr.
func (c *TokensCreateCmd) Run(ctx context.Context, env *Env) error {
	body, err := json.Marshal(struct {
		Tenant  string   `json:"tenant"`
		Name    string   `json:"name"`
		Scope   string   `json:"scope"`
		TTL     string   `json:"ttl"`
		Subject string   `json:"sub,omitempty"`
		Models  []string `json:"models,omitempty"`
		Pools   []string `json:"pools,omitempty"`
	}{c.Tenant, c.Name, c.Scope, c.TTL, c.Subject, c.Models, c.Pools})
	if err != nil {
		return err
	}
	b, err := c.ask(ctx, env, http.MethodPost, "/v1/tokens", body, c.JSON)
	if err != nil || c.JSON {
		return err
	}
	var made struct {
		ID      string `json:"id"`
		Token   string `json:"token"`
		Expires string `json:"expires_at"`
	}
	if err := json.Unmarshal(b, &made); err != nil || made.Token == "" {
		return errors.New("the answer is not a token: is this the address of a Sluice API?")
	}
	fmt.Fprintf(env.Stderr, "%s is good until %s; it is shown only now\n", made.ID, made.Expires)
	_, err = fmt.Fprintln(env.Stdout, made.Token)
	return err
}

// TokensListCmd lists tokens.
type TokensListCmd struct {
	Limit       int    `default:"20" help:"So many at most, the newest first; 1 to 100."`
	After       string `placeholder:"ID" help:"Go on after this id."`
	JSON        bool   `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run prints a table.
func (c *TokensListCmd) Run(ctx context.Context, env *Env) error {
	list := pageOf{path: "/v1/tokens", what: "tokens", head: "ID\tTENANT\tNAME\tSCOPE\tMODELS\tPOOLS\tEXPIRES\tREVOKED"}
	return list.print(ctx, env, &c.ClientFlags, c.Limit, c.After, c.JSON, func(w io.Writer, row json.RawMessage) error {
		var t struct {
			ID      string   `json:"id"`
			Tenant  string   `json:"tenant"`
			Name    string   `json:"name"`
			Scope   string   `json:"scope"`
			Models  []string `json:"models"`
			Pools   []string `json:"pools"`
			Expires string   `json:"expires_at"`
			Revoked *string  `json:"revoked_at"`
		}
		if err := json.Unmarshal(row, &t); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Tenant, orDash(&t.Name), t.Scope, clean(strings.Join(t.Models, " ")), clean(strings.Join(t.Pools, " ")), t.Expires, orDash(t.Revoked))
		return nil
	})
}

// pageOf is a list of which a command prints one page, by the id or name to go on after.
type pageOf struct{ path, what, head string }

// print prints what the API answers, or a table of which row writes each line.
func (l pageOf) print(ctx context.Context, env *Env, f *ClientFlags, limit int, after string, asJSON bool, row func(w io.Writer, row json.RawMessage) error) error {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	b, err := f.ask(ctx, env, http.MethodGet, l.path+"?"+q.Encode(), nil, asJSON)
	if err != nil || asJSON {
		return err
	}
	var page struct {
		Data []json.RawMessage `json:"data"`
		Next string            `json:"next"`
	}
	if err := json.Unmarshal(b, &page); err != nil {
		return fmt.Errorf("the answer is not a list of %s: %w", l.what, err)
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, l.head)
	for _, one := range page.Data {
		if err := row(w, one); err != nil {
			return fmt.Errorf("the answer is not a list of %s: %w", l.what, err)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(env.Stderr, "there are more: --after %s\n", page.Next)
	}
	return nil
}

// TokensRevokeCmd takes a token back.
type TokensRevokeCmd struct {
	ID          string `arg:"" help:"The token's id: its jti, also of one that sluice token made."`
	Reason      string `help:"Why, for the audit."`
	JSON        bool   `name:"json" help:"Print one JSON object: its id, and that it is revoked."`
	ClientFlags `embed:""`
}

// Run revokes the token.
func (c *TokensRevokeCmd) Run(ctx context.Context, env *Env) error {
	path := "/v1/tokens/" + url.PathEscape(c.ID)
	if c.Reason != "" {
		path += "?" + url.Values{"reason": {c.Reason}}.Encode()
	}
	if _, err := c.ask(ctx, env, http.MethodDelete, path, nil, false); err != nil {
		return err
	}
	if c.JSON { // the API answers nothing
		return printValue(env.Stdout, struct {
			ID      string `json:"id"`
			Revoked bool   `json:"revoked"`
		}{c.ID, true})
	}
	_, err := fmt.Fprintf(env.Stderr, "%s is revoked\n", c.ID)
	return err
}
