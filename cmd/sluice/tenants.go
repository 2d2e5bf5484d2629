package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	apifault "github.com/sluicehq/sluice/api/fault"
	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/tasks"
)

// limitsOf is what a tenant may use now: what an operator has set, else what is configured.
func (s *service) limitsOf(name string) tasks.TenantLimits {
	return s.settings.Of(name).Over(s.configured(name))
}

// configured is what a tenant may use by the configuration.
func (s *service) configured(name string) tasks.TenantLimits {
	t := s.cfg.Tenant(name)
	return tasks.TenantLimits{
		Weight: t.Weight, SubmitsPerMinute: t.SubmitsPerMinute, ResendsPerMinute: t.ResendsPerMinute, QueuedJobs: t.QueuedJobs, QueuedBytes: t.QueuedBytes,
		RunningJobs: t.RunningJobs, TokensPerDay: t.TokensPerDay, CostPerDay: t.CostPerDay, HighPriority: t.HighPriority,
		Users: tasks.UserLimits(t.Users),
	}
}

// placesOf are how many of a tenant's jobs may be with workers at once.
func (s *service) placesOf(tenant string) tasks.Places {
	l := s.limitsOf(tenant)
	return l.Places()
}

// tenancy is what operators know and set of tenants.
type tenancy struct{ *service }

// overseen is what the console shows of tenants, and does with their tokens.
type overseen struct {
	tenancy
	keeper
}

// KnownTenants lists tenants as the API does.
func (o overseen) KnownTenants(ctx context.Context, after string, limit int) (tasks.TenantPage, error) {
	return o.tenancy.KnownTenants(ctx, after, limit)
}

// KnownTenants lists tenants with their limits and how these stand.
func (t tenancy) KnownTenants(ctx context.Context, after string, limit int) (tasks.TenantPage, error) {
	var named []string
	for _, one := range t.cfg.Tenants {
		if one.Name != "default" {
			named = append(named, one.Name)
		}
	}
	page, err := t.store.KnownTenants(ctx, named, after, limit)
	if err != nil {
		return page, err
	}
	for i := range page.Tenants {
		if page.Tenants[i], err = t.whole(ctx, page.Tenants[i].Name, page.Tenants[i].Settings); err != nil {
			return page, err
		}
	}
	return page, nil
}

// whole is a tenant with its limits and how they stand.
func (t tenancy) whole(ctx context.Context, name string, set tasks.TenantSettings) (tasks.Tenant, error) {
	standing, err := t.store.Standing(ctx, name)
	return tasks.Tenant{Name: name, Settings: set, Limits: set.Over(t.configured(name)), Standing: standing}, err
}

// SetTenant replaces what was set of a tenant: every process goes by it within a second.
func (t tenancy) SetTenant(ctx context.Context, name string, set tasks.TenantSettings, act tasks.Act) (tasks.Tenant, error) {
	l := set.Over(t.configured(name))
	if l.Users != (tasks.UserLimits{}) && t.cfg.Auth.Users == config.UsersShared {
		return tasks.Tenant{}, apifault.Fail(apifault.ImpossibleSetting, `The member "users" %s.`, config.LimitsNobody)
	}
	if err := t.store.SetTenant(ctx, name, set, l.Weight, l.Places(), act); err != nil {
		return tasks.Tenant{}, err
	}
	_ = t.settings.Refresh(ctx) // else it is read within a second
	return t.whole(ctx, name, set)
}

// DeleteTenant deletes all that a tenant has.
func (t tenancy) DeleteTenant(ctx context.Context, name string, act tasks.Act) (tasks.Departure, error) {
	d, err := t.store.DeleteTenant(ctx, name, act)
	_ = t.settings.Refresh(ctx) // else it is read within a second
	return d, err
}

// TenantsCmd holds the commands about tenants.
type TenantsCmd struct {
	List   TenantsListCmd   `cmd:"" default:"withargs" help:"List the tenants that are known, with what they may use and what they use."`
	Set    TenantsSetCmd    `cmd:"" help:"Say what a tenant may use from now on; what is not named is as the configuration has it."`
	Delete TenantsDeleteCmd `cmd:"" help:"Delete all that a tenant has: its tokens, jobs, batches, files, webhooks, settings and its key."`
}

// TenantsListCmd lists tenants.
type TenantsListCmd struct {
	Limit       int    `default:"20" help:"So many at most, by name; 1 to 100."`
	After       string `placeholder:"NAME" help:"Go on after this name."`
	JSON        bool   `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// tenantRow is what the API says of a tenant.
type tenantRow struct {
	Name             string      `json:"name"`
	Weight           int64       `json:"weight"`
	SubmitsPerMinute int64       `json:"submits_per_minute"`
	QueuedJobs       int64       `json:"queued_jobs"`
	RunningJobs      int64       `json:"running_jobs"`
	TokensPerDay     int64       `json:"tokens_per_day"`
	CostPerDay       json.Number `json:"cost_per_day"`
	Usage            struct {
		QueuedJobs  int64 `json:"queued_jobs"`
		RunningJobs int64 `json:"running_jobs"`
		Tokens      struct {
			Used int64 `json:"used"`
		} `json:"tokens_today"`
		Cost struct {
			Used json.Number `json:"used"`
		} `json:"cost_today"`
	} `json:"usage"`
}

// of is how much of a limit is used.
func of(used string, limit string) string {
	if limit == "0" || limit == "" {
		return used
	}
	return used + "/" + limit
}

func ofCount(used, limit int64) string {
	return of(strconv.FormatInt(used, 10), strconv.FormatInt(limit, 10))
}

// Run prints a table.
func (c *TenantsListCmd) Run(ctx context.Context, env *Env) error {
	list := pageOf{path: "/v1/tenants", what: "tenants", head: "TENANT\tWEIGHT\tSUBMITS/MIN\tQUEUED\tRUNNING\tTOKENS TODAY\tCOST TODAY"}
	return list.print(ctx, env, &c.ClientFlags, c.Limit, c.After, c.JSON, func(w io.Writer, row json.RawMessage) error {
		var t tenantRow
		if err := json.Unmarshal(row, &t); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", t.Name, t.Weight, t.SubmitsPerMinute, ofCount(t.Usage.QueuedJobs, t.QueuedJobs),
			ofCount(t.Usage.RunningJobs, t.RunningJobs), ofCount(t.Usage.Tokens.Used, t.TokensPerDay), of(t.Usage.Cost.Used.String(), t.CostPerDay.String()))
		return nil
	})
}

// TenantsSetCmd sets what a tenant may use.
type TenantsSetCmd struct {
	Name             string  `arg:"" help:"The tenant."`
	Weight           *int64  `help:"Its share of each pool's allowance."`
	SubmitsPerMinute *int64  `help:"Submits in any 60 s; of this and the others 0 is no limit."`
	ResendsPerMinute *int64  `help:"Tests of webhooks and redeliveries in any 60 s."`
	QueuedJobs       *int64  `help:"Jobs that wait."`
	QueuedBytes      *int64  `help:"Bytes of the bodies of jobs that have not ended."`
	RunningJobs      *int64  `help:"Jobs that are with workers at once."`
	TokensPerDay     *int64  `help:"Tokens of a UTC day."`
	CostPerDay       *string `help:"Money of a UTC day, as in 12.5."`
	HighPriority     *bool   `help:"Whether it may use the lane high: --high-priority=false takes that away."`

	UserSubmitsPerMinute *int64  `help:"Of each of its users, where users are kept apart: submits in any 60 s."`
	UserQueuedJobs       *int64  `help:"Likewise jobs that wait."`
	UserRunningJobs      *int64  `help:"Likewise jobs that are with workers at once."`
	UserTokensPerDay     *int64  `help:"Likewise tokens of a UTC day."`
	UserCostPerDay       *string `help:"Likewise money of a UTC day."`

	JSON        bool `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run sets what is named, and says what the tenant may use now.
func (c *TenantsSetCmd) Run(ctx context.Context, env *Env) error {
	settings := tasks.TenantSettings{
		Weight: c.Weight, SubmitsPerMinute: c.SubmitsPerMinute, ResendsPerMinute: c.ResendsPerMinute, QueuedJobs: c.QueuedJobs, QueuedBytes: c.QueuedBytes,
		RunningJobs: c.RunningJobs, TokensPerDay: c.TokensPerDay, HighPriority: c.HighPriority,
	}
	users := tasks.UserSettings{SubmitsPerMinute: c.UserSubmitsPerMinute, QueuedJobs: c.UserQueuedJobs, RunningJobs: c.UserRunningJobs, TokensPerDay: c.UserTokensPerDay}
	var err error
	if settings.CostPerDay, err = moneyFlag("--cost-per-day", c.CostPerDay); err != nil {
		return err
	}
	if users.CostPerDay, err = moneyFlag("--user-cost-per-day", c.UserCostPerDay); err != nil {
		return err
	}
	if users != (tasks.UserSettings{}) {
		settings.Users = &users
	}
	b, err := c.ask(ctx, env, http.MethodPut, "/v1/tenants/"+url.PathEscape(c.Name), []byte(settings.String()), c.JSON)
	if err != nil || c.JSON {
		return err
	}
	var said struct {
		Set json.RawMessage `json:"set"`
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return fmt.Errorf("the answer is not a tenant: %w", err)
	}
	_, err = fmt.Fprintf(env.Stderr, "%s: set %s; the rest is as the configuration has it\n", c.Name, said.Set)
	return err
}

// moneyFlag is the money that a flag says, nil where it is not given.
func moneyFlag(name string, text *string) (*tasks.Money, error) {
	if text == nil {
		return nil, nil
	}
	money, err := tasks.ParseMoney(*text)
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("%s: %w", name, err)}
	}
	return &money, nil
}

// TenantsDeleteCmd deletes a tenant.
type TenantsDeleteCmd struct {
	Name        string `arg:"" help:"The tenant."`
	Reason      string `help:"Why, for the audit."`
	JSON        bool   `name:"json" help:"Print what the API answers at the end."`
	ClientFlags `embed:""`
}

// Run asks until nothing is left, and says what was deleted.
func (c *TenantsDeleteCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	path := "/v1/tenants/" + url.PathEscape(c.Name)
	if c.Reason != "" {
		path += "?reason=" + url.QueryEscape(c.Reason)
	}
	for {
		b, err := again(ctx, true, func() ([]byte, error) { return api.call(ctx, http.MethodDelete, path, nil, nil) })
		if err != nil {
			return err
		}
		var said struct {
			Deleted                                  bool
			Jobs, Batches, Files, Deliveries, Tokens int64
			Endpoints                                int64 `json:"webhook_endpoints"`
		}
		if err := json.Unmarshal(b, &said); err != nil {
			return fmt.Errorf("the answer is not of a deletion: %w", err)
		}
		if c.JSON && said.Deleted {
			return printLine(env.Stdout, b)
		}
		word := "deleted"
		if !said.Deleted {
			word = "still deleting; so far"
		}
		_, err = fmt.Fprintf(env.Stderr, "%s: %s %d jobs, %d batches, %d files, %d webhook endpoints, %d deliveries, %d tokens\n",
			c.Name, word, said.Jobs, said.Batches, said.Files, said.Endpoints, said.Deliveries, said.Tokens)
		if err != nil || said.Deleted {
			return err
		}
	}
}
