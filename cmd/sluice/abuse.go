package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// AbuseCmd holds the commands about what is out of the ordinary.
type AbuseCmd struct {
	List    AbuseListCmd    `cmd:"" default:"withargs" help:"List what was found out of the ordinary of tenants, the newest tenant first (scope admin)."`
	Release AbuseReleaseCmd `cmd:"" help:"Say that what was found of a tenant is no abuse: it is free at once (scope admin)."`
}

// AbuseListCmd lists findings.
type AbuseListCmd struct {
	JSON        bool `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run prints a table.
func (c *AbuseListCmd) Run(ctx context.Context, env *Env) error {
	b, err := c.ask(ctx, env, http.MethodGet, "/v1/abuse", nil, c.JSON)
	if err != nil || c.JSON {
		return err
	}
	var found struct {
		Data []struct {
			Tenant  string      `json:"tenant"`
			Rule    string      `json:"rule"`
			Window  json.Number `json:"window"`
			Measure json.Number `json:"measure"`
			Score   json.Number `json:"score"`
			At      string      `json:"at"`
			Action  string      `json:"action"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &found); err != nil {
		return fmt.Errorf("the answer is not a list of findings: %w", err)
	}
	t := newRows(env.Stdout, false, "TENANT\tRULE\tWINDOW\tMEASURE\tSCORE\tAT\tACTION")
	for i := range found.Data {
		f := &found.Data[i]
		if err := t.row(f.Tenant, f.Rule, f.Window.String()+"s", f.Measure.String(), f.Score.String(), f.At, f.Action); err != nil {
			return err
		}
	}
	return t.table.Flush()
}

// AbuseReleaseCmd releases a tenant.
type AbuseReleaseCmd struct {
	Tenant      string `arg:"" help:"The tenant."`
	Reason      string `required:"" help:"Why, for the audit."`
	JSON        bool   `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run releases the tenant, and says where it stands now.
func (c *AbuseReleaseCmd) Run(ctx context.Context, env *Env) error {
	body, err := json.Marshal(map[string]string{"reason": c.Reason})
	if err != nil {
		return err
	}
	_, err = c.ask(ctx, env, http.MethodPost, "/v1/abuse/"+url.PathEscape(c.Tenant)+"/release", body, c.JSON)
	if err != nil || c.JSON {
		return err
	}
	_, err = fmt.Fprintf(env.Stderr, "%s is released; what was found of it is its habit from now on\n", c.Tenant)
	return err
}
