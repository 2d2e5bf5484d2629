package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// TopCmd shows how everything stands, again and again.
type TopCmd struct {
	Every       Wait `default:"2" placeholder:"SECONDS" help:"How often it is asked."`
	Count       int  `placeholder:"N" help:"End after so many times; 0 is never."`
	JSON        bool `name:"json" help:"Print what the API answers, a line each time."`
	ClientFlags `embed:""`
}

// Help says what it looks like.
func (c *TopCmd) Help() string {
	return "On a terminal it is one screen that changes in place; in a pipe a line for each pool, tenant and running job each time. Tenants are shown to scope admin, running jobs to jobs:read."
}

// topRows is how many tenants and jobs a screen has at most.
const topRows = 10

// Run asks until ctx ends or often enough. That the API cannot be asked for a while is shown in
// place of it, once it could be.
func (c *TopCmd) Run(ctx context.Context, env *Env) error {
	if c.Every <= 0 {
		return wrongUsage{errors.New("--every must be above 0")}
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	tick := time.NewTicker(time.Duration(c.Every))
	defer tick.Stop()
	var last standing
	for n := 1; ; n++ {
		now, err := api.standing(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // who looks has seen enough
		case err != nil && last.At.IsZero():
			return err
		case err != nil:
			last.Away = err.Error()
		default:
			last = now
		}
		if err := c.show(env, &last); err != nil {
			return err
		}
		if n == c.Count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// show prints how everything stands.
func (c *TopCmd) show(env *Env, s *standing) error {
	switch {
	case c.JSON:
		b, err := json.Marshal(s)
		if err != nil {
			return err
		}
		return printLine(env.Stdout, b)
	case !terminal(env.Stdout):
		return s.lines(env.Stdout)
	}
	var page bytes.Buffer
	clearer := screen{inTurn: inTurn{to: &page}}
	if err := s.page(&clearer); err != nil {
		return err
	}
	// From the corner, without breaking lines, each and the rest of the screen cleared behind it.
	text := "\x1b[H\x1b[?7l" + strings.ReplaceAll(page.String(), "\n", "\x1b[K\n") + "\x1b[J\x1b[?7h"
	_, err := io.WriteString(rawTerminal(env.Stdout), text)
	return err
}

// standing is how everything stands at one moment. Tenants and Running are nil to a token that
// may not see them.
type standing struct {
	At      time.Time   `json:"at"`
	Away    string      `json:"error,omitempty"` // why it could not be asked since
	Pools   []poolRow   `json:"pools"`
	Tenants []tenantRow `json:"tenants"`
	Running []topJob    `json:"running"`
}

type topJob struct {
	ID      string     `json:"id"`
	Model   string     `json:"model"`
	Pool    string     `json:"pool"`
	Started *time.Time `json:"started_at"`
}

// standing asks how everything stands.
func (c *client) standing(ctx context.Context) (s standing, err error) {
	b, err := c.call(ctx, http.MethodGet, "/v1/status", nil, nil)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil || s.Pools == nil {
		return s, errors.New("the answer is not the status of a Sluice API")
	}
	if s.Tenants, err = c.busiest(ctx); err != nil {
		return s, err
	}
	s.At = time.Now().UTC().Truncate(time.Millisecond)
	return s, c.part(ctx, fmt.Sprintf("/v1/jobs?status=running&limit=%d", topRows), &s.Running)
}

// topPages is how many pages of a hundred tenants are looked through for those with most waiting.
const topPages = 10

// busiest are the tenants with most jobs waiting, of the first thousand by name; nil: the token
// may not see them.
func (c *client) busiest(ctx context.Context) ([]tenantRow, error) {
	var all []tenantRow
	after := ""
	for range topPages {
		var some []tenantRow
		if err := c.part(ctx, "/v1/tenants?limit=100"+after, &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
		if len(some) < 100 {
			break
		}
		after = "&after=" + url.QueryEscape(some[len(some)-1].Name)
	}
	slices.SortStableFunc(all, func(a, b tenantRow) int { return cmp.Compare(b.Usage.QueuedJobs, a.Usage.QueuedJobs) })
	return all[:min(len(all), topRows)], nil
}

// part reads the rows of a list, none where the token may not see it.
func (c *client) part(ctx context.Context, path string, rows any) error {
	b, err := c.call(ctx, http.MethodGet, path, nil, nil)
	var told *apiError
	if errors.As(err, &told) && (told.Status == http.StatusForbidden || told.Status == http.StatusNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	page := struct {
		Data any `json:"data"`
	}{rows}
	if err := json.Unmarshal(b, &page); err != nil {
		return fmt.Errorf("the answer is not a list: %w", err)
	}
	return nil
}

// running is how many of a tenant's jobs are handed out, which is counted under a limit alone.
func (t *tenantRow) running() string {
	if t.RunningJobs == 0 {
		return "-"
	}
	return ofCount(t.Usage.RunningJobs, t.RunningJobs)
}

// page prints it for a terminal.
func (s *standing) page(out io.Writer) error {
	head := "sluice top  " + s.At.Format("2006-01-02 15:04:05Z")
	if s.Away != "" {
		head += "  (since then: " + clean(s.Away) + ")"
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\n\n", head)
	poolTable(w, s.Pools, s.At)
	if s.Tenants != nil {
		fmt.Fprint(w, "\nTENANT (most waiting)\tWEIGHT\tQUEUED\tRUNNING\tTOKENS TODAY\n")
		for _, t := range s.Tenants {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", clean(t.Name), t.Weight, ofCount(t.Usage.QueuedJobs, t.QueuedJobs), t.running(), ofCount(t.Usage.Tokens.Used, t.TokensPerDay))
		}
	}
	if s.Running != nil {
		fmt.Fprint(w, "\nRUNNING JOB\tMODEL\tPOOL\tFOR\n")
		for _, j := range s.Running {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", clean(j.ID), clean(j.Model), clean(j.Pool), age(j.Started, s.At))
		}
	}
	return w.Flush()
}

// lines prints it for a pipe: a line a thing, the moment first.
func (s *standing) lines(out io.Writer) error {
	at := s.At.Format(time.RFC3339)
	if s.Away != "" {
		_, err := fmt.Fprintf(out, "%s away %s\n", at, clean(s.Away))
		return err
	}
	var b bytes.Buffer
	for i := range s.Pools {
		p := &s.Pools[i]
		fmt.Fprintf(&b, "%s pool %s state=%s queued=%d later=%d running=%d oldest=%s for=%s allowance=%q next=%q\n",
			at, p.Name, p.State, p.Queued-p.Scheduled, p.Scheduled, p.Running, age(p.Oldest, s.At), orDash(p.For), p.used(), p.next(s.At))
	}
	for _, t := range s.Tenants {
		fmt.Fprintf(&b, "%s tenant %s queued=%d running=%s tokens=%d\n", at, clean(t.Name), t.Usage.QueuedJobs, t.running(), t.Usage.Tokens.Used)
	}
	for _, j := range s.Running {
		fmt.Fprintf(&b, "%s job %s model=%s pool=%s for=%s\n", at, clean(j.ID), clean(j.Model), clean(j.Pool), age(j.Started, s.At))
	}
	_, err := out.Write(b.Bytes())
	return err
}
