package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"
)

// JobFlags are the filters of GET /v1/jobs.
type JobFlags struct {
	Status   string            `help:"Only with this status: queued, scheduled, running, retrying, succeeded, failed, canceled or expired."`
	Model    string            `help:"Only of this model."`
	Pool     string            `help:"Only those that are in this pool now."`
	Batch    string            `placeholder:"ID" help:"Only of this batch."`
	Metadata map[string]string `placeholder:"KEY=VALUE" help:"Only with this pair."`
	Since    string            `placeholder:"TIME" help:"Accepted at this time (2030-01-31T12:00:00Z) or later; 24h is a day ago."`
	Until    string            `placeholder:"TIME" help:"Accepted before this time."`
}

// query are the flags as the API takes them.
func (f JobFlags) query(now time.Time) (url.Values, error) {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("status", f.Status)
	set("model", f.Model)
	set("pool", f.Pool)
	set("batch", f.Batch)
	for k, v := range f.Metadata {
		q.Set("metadata."+k, v)
	}
	for name, text := range map[string]string{"since": f.Since, "until": f.Until} {
		at, err := ago(text, now)
		if err != nil {
			return nil, wrongUsage{fmt.Errorf("--%s: %w", name, err)}
		}
		if at != nil {
			set(name, at.Format(time.RFC3339Nano))
		}
	}
	return q, nil
}

// ago reads a time of RFC 3339, or how long ago it was; nil for "".
func ago(text string, now time.Time) (*time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		text = (-d).String()
	}
	return moment(text, now)
}

// JobsCmd lists jobs.
type JobsCmd struct {
	JobFlags    `embed:""`
	Limit       int  `default:"20" help:"So many at most, the newest first; 0 is all."`
	JSON        bool `name:"json" help:"Print each job as one line of JSON."`
	ClientFlags `embed:""`
}

// Run prints a table, or a line of JSON a job.
func (c *JobsCmd) Run(ctx context.Context, env *Env) error {
	q, err := c.query(time.Now())
	if err != nil {
		return err
	}
	t := newRows(env.Stdout, c.JSON, "ID\tSTATUS\tMODEL\tPOOL\tCREATED\tFOR\tERROR")
	return c.list(ctx, env, "/v1/jobs", q, c.Limit, t, func(raw []byte) error {
		var j struct {
			ID, Status, Model, Pool string
			CreatedAt               string `json:"created_at"`
			Waiting                 *struct {
				For *string `json:"for"`
			}
			Error *struct{ Code string }
		}
		if err := json.Unmarshal(raw, &j); err != nil {
			return err
		}
		waits, fails := "", ""
		if j.Waiting != nil && j.Waiting.For != nil {
			waits = *j.Waiting.For
		}
		if j.Error != nil {
			fails = j.Error.Code
		}
		return t.row(j.ID, j.Status, j.Model, j.Pool, j.CreatedAt, waits, fails)
	})
}

// rows are a list as a command prints it: a table, or lines of JSON.
type rows struct {
	json  bool
	out   io.Writer
	table *tabwriter.Writer
}

func newRows(out io.Writer, json bool, head string) *rows {
	t := &rows{json: json, out: out, table: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	if !json {
		fmt.Fprintln(t.table, head)
	}
	return t
}

// row prints cells, each cleaned as orDash does.
func (t *rows) row(cells ...string) error {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t.table, "\t")
		}
		fmt.Fprint(t.table, clean(cell))
	}
	_, err := fmt.Fprintln(t.table)
	return err
}

// clean is a cell of a table.
func clean(text string) string { return orDash(&text) }

// list prints the rows of a list, page by page, limit at most; 0 is all of them.
func (f ClientFlags) list(ctx context.Context, env *Env, path string, q url.Values, limit int, t *rows, show func(raw []byte) error) error {
	api, err := f.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	for n := 0; ; {
		size := 100
		if limit > 0 {
			size = min(size, limit-n)
		}
		q.Set("limit", strconv.Itoa(size))
		b, err := api.call(ctx, http.MethodGet, path+"?"+q.Encode(), nil, nil)
		if err != nil {
			return err
		}
		var page struct {
			Data    []json.RawMessage `json:"data"`
			HasMore bool              `json:"has_more"`
			Next    string            `json:"next"`
		}
		if err := json.Unmarshal(b, &page); err != nil {
			return fmt.Errorf("the answer is not a list: is this the address of a Sluice API? %w", err)
		}
		for _, raw := range page.Data {
			if t.json {
				err = printLine(t.out, raw)
			} else {
				err = show(raw)
			}
			if err != nil {
				return err
			}
		}
		n += len(page.Data)
		q.Set("after", page.Next)
		if page.HasMore && (limit == 0 || n < limit) {
			continue
		}
		if err := t.table.Flush(); err != nil {
			return err
		}
		if page.HasMore {
			fmt.Fprintf(env.Stderr, "there are more: --limit %d, or --limit 0 for all\n", 10*limit)
		}
		return nil
	}
}

// printLine prints JSON on one line, at a terminal too.
func printLine(w io.Writer, b []byte) error {
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}

// DeliveriesCmd holds the commands about deliveries of webhooks.
type DeliveriesCmd struct {
	List      DeliveriesListCmd      `cmd:"" default:"withargs" help:"List deliveries of webhooks, the newest first (scope webhooks:write)."`
	Redeliver DeliveriesRedeliverCmd `cmd:"" help:"Send deliveries again (scope webhooks:write)."`
}

// DeliveriesListCmd lists deliveries.
type DeliveriesListCmd struct {
	Endpoint    string `placeholder:"ID" help:"Only of this endpoint."`
	Status      string `help:"Only with this status: pending, delivered or exhausted."`
	Limit       int    `default:"20" help:"So many at most, the newest first; 0 is all."`
	JSON        bool   `name:"json" help:"Print each delivery as one line of JSON."`
	ClientFlags `embed:""`
}

// Run prints a table, or a line of JSON a delivery.
func (c *DeliveriesListCmd) Run(ctx context.Context, env *Env) error {
	path, q := "/v1/deliveries", url.Values{}
	if c.Endpoint != "" {
		path = "/v1/webhook-endpoints/" + url.PathEscape(c.Endpoint) + "/deliveries"
	}
	if c.Status != "" {
		q.Set("status", c.Status)
	}
	t := newRows(env.Stdout, c.JSON, "ID\tSTATUS\tTYPE\tABOUT\tENDPOINT\tATTEMPTS\tCREATED\tREASON")
	return c.list(ctx, env, path, q, c.Limit, t, func(raw []byte) error {
		var d struct {
			ID, Status, Type, About string
			Endpoint, Reason        *string
			Attempts                int
			CreatedAt               string `json:"created_at"`
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			return err
		}
		return t.row(d.ID, d.Status, d.Type, d.About, orDash(d.Endpoint), strconv.Itoa(d.Attempts), d.CreatedAt, orDash(d.Reason))
	})
}

// DeliveriesRedeliverCmd sends deliveries again.
type DeliveriesRedeliverCmd struct {
	ID          []string `arg:"" help:"The deliveries' ids."`
	OneLine     `embed:""`
	ClientFlags `embed:""`
}

// Run sends each again and prints it.
func (c *DeliveriesRedeliverCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	for _, id := range c.ID {
		b, err := api.call(ctx, http.MethodPost, "/v1/deliveries/"+url.PathEscape(id)+"/redeliver", nil, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", clean(id), err)
		}
		if err := c.print(env.Stdout, b); err != nil {
			return err
		}
	}
	return nil
}
