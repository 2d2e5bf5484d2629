package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"text/tabwriter"
)

// PoolsTenantsCmd shows how tenants share a pool.
type PoolsTenantsCmd struct {
	Name        string `arg:"" help:"The pool's name."`
	Limit       int    `default:"20" help:"So many tenants at most, the most served first; 0 is all that the API tells."`
	JSON        bool   `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// servedSeconds is what the API says of the last minute and hour.
type servedSeconds struct {
	Minute, Hour float64
}

// Run prints a table, and Jain's index below it.
func (c *PoolsTenantsCmd) Run(ctx context.Context, env *Env) error {
	b, err := c.ask(ctx, env, http.MethodGet, poolPath(c.Name, "tenants"), nil, c.JSON)
	if err != nil || c.JSON {
		return err
	}
	var said struct {
		Data []struct {
			Tenant          string
			Weight          int64
			Seconds         servedSeconds
			Share, Lag      float64
			Queued, Running int64
		}
		Jain   struct{ Minute, Hour *float64 }
		Others struct {
			Tenants int
			Seconds servedSeconds
		}
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return fmt.Errorf("the answer is not how tenants share a pool: %w", err)
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tWEIGHT\tSHARE\tS/MINUTE\tS/HOUR\tLAG\tQUEUED\tRUNNING")
	others := said.Others
	for i, t := range said.Data {
		if c.Limit > 0 && i >= c.Limit {
			others.Tenants++
			others.Seconds.Minute, others.Seconds.Hour = others.Seconds.Minute+t.Seconds.Minute, others.Seconds.Hour+t.Seconds.Hour
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f%%\t%.1f\t%.1f\t%.1f\t%d\t%d\n", t.Tenant, t.Weight, 100*t.Share, t.Seconds.Minute, t.Seconds.Hour, t.Lag, t.Queued, t.Running)
	}
	if others.Tenants > 0 {
		fmt.Fprintf(w, "(%d more)\t-\t-\t%.1f\t%.1f\t-\t-\t-\n", others.Tenants, others.Seconds.Minute, others.Seconds.Hour)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "Jain's index: %s in the last minute, %s in the last hour\n", index(said.Jain.Minute), index(said.Jain.Hour))
	return nil
}

// index is Jain's index in words.
func index(v *float64) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprintf("%.4f", *v)
}
