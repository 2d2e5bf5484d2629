package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// ReconcileCmd compares what jobs' calls cost with what the provider says.
type ReconcileCmd struct {
	File        string   `arg:"" help:"The provider's report: CSV with a head, or JSON lines; - is standard input."`
	Jobs        []string `placeholder:"FILE" help:"Compare with these lines of sluice jobs --limit 0 --json instead of asking the API; for several tenants."`
	Since       string   `placeholder:"TIME" help:"Jobs accepted at this time (2030-01-31T12:00:00Z) or later; 24h is a day ago."`
	Until       string   `placeholder:"TIME" help:"Jobs accepted before this time."`
	JSON        bool     `name:"json" help:"Print each difference as one line of JSON, and the totals as the last."`
	ClientFlags `embed:""`
}

// Help says what a report has to have.
func (*ReconcileCmd) Help() string {
	return "A row is a request: request_id (or id), input_tokens or prompt_tokens, output_tokens or completion_tokens, cache_read_input_tokens, cache_creation_input_tokens, cost (or amount, cost_usd) in USD; of these the id is needed, and what is missing is not compared. Exit 0 when nothing differs but what calls that have no request id, or may have been charged, explain, else 1."
}

// Run compares, and ends with an error when something differs.
func (c *ReconcileCmd) Run(ctx context.Context, env *Env) error {
	in := env.Stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return wrongUsage{err}
		}
		defer f.Close()
		in = f
	}
	dir, err := os.MkdirTemp("", "sluice-reconcile-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := newSpool(dir)
	if err != nil {
		return err
	}
	defer s.close()
	if err := readReport(in, func(b bill) error { return s.add(b.ID, spooled{Theirs: &b}) }); err != nil {
		return wrongUsage{fmt.Errorf("%s: %w", c.File, err)}
	}
	var t totals
	if err := c.receipts(ctx, env, func(r receipt) error {
		if r.ID == "" {
			t.unnamed(r)
			return nil
		}
		return s.add(r.ID, spooled{Ours: &r})
	}); err != nil {
		return err
	}
	list := newRows(env.Stdout, c.JSON, "WHAT\tREQUEST\tJOB\tOUR TOKENS\tTHEIR TOKENS\tOUR COST\tTHEIR COST")
	if err := s.each(func(ours []receipt, theirs []bill) error { return t.compare(list, ours, theirs) }); err != nil {
		return err
	}
	if err := list.table.Flush(); err != nil {
		return err
	}
	return t.tell(env.Stdout, c.JSON)
}

// receipts tells each call that may have been charged, of jobs that the API or files list.
func (c *ReconcileCmd) receipts(ctx context.Context, env *Env, each func(receipt) error) error {
	show := func(raw []byte) error { return receiptsOf(raw, each) }
	for _, name := range c.Jobs {
		if err := lines(name, show); err != nil {
			return wrongUsage{fmt.Errorf("%s: %w", name, err)}
		}
	}
	if len(c.Jobs) > 0 {
		return nil
	}
	q := url.Values{}
	for name, text := range map[string]string{"since": c.Since, "until": c.Until} {
		at, err := ago(text, time.Now())
		if err != nil {
			return wrongUsage{fmt.Errorf("--%s: %w", name, err)}
		}
		if at != nil {
			q.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return c.list(ctx, env, "/v1/jobs", q, 0, newRows(io.Discard, false, ""), show)
}

// lines shows each line of a file that is not empty.
func lines(name string, show func(raw []byte) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, reportLine)
	for n := 1; in.Scan(); n++ {
		if len(in.Bytes()) == 0 {
			continue
		}
		if err := show(in.Bytes()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return in.Err()
}

// counted are the tokens and the money of a request.
type counted struct {
	Input  int64        `json:"input_tokens"` // also those of caches
	Cached int64        `json:"cached"`       // of Input
	Output int64        `json:"output_tokens"`
	Cost   *tasks.Money `json:"cost"` // nil: nobody says
}

// receipt is a call of a job that was charged, or may have been.
type receipt struct {
	ID, Job string
	Maybe   *tasks.Money // what it may have cost besides; nil: it was charged, and how much is known
	counted
}

// call is an attempt of a job, as the API shows it.
type call struct {
	RequestID   string `json:"request_id"`
	Outcome     tasks.Outcome
	MaybeBilled bool `json:"maybe_billed"`
	Usage       *tasks.Usage
	Cost        *struct{ Amount, Maybe json.Number }
}

// uncounted reports whether it was charged, and nobody knows how much.
func (a *call) uncounted() bool { return a.Usage == nil && a.Outcome == tasks.Succeeded }

// free reports whether it was certainly not charged: refused, under way, or another call's answer.
func (a *call) free() bool {
	return a.Usage == nil && !a.MaybeBilled && !a.uncounted() || a.Outcome == tasks.Cached || a.Outcome == tasks.Shared
}

// receiptsOf tells the receipts of a job, as the API shows it.
func receiptsOf(raw []byte, each func(receipt) error) error {
	var j struct {
		ID       string
		Upstream *struct{ Attempts []call }
	}
	if err := json.Unmarshal(raw, &j); err != nil || j.ID == "" {
		return errors.Join(errors.New("it is no job"), err)
	}
	if j.Upstream == nil {
		return nil
	}
	for i := range j.Upstream.Attempts {
		a := &j.Upstream.Attempts[i]
		if a.free() {
			continue
		}
		r, err := a.receipt(j.ID)
		if err == nil {
			err = each(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// receipt is what a call of a job was charged.
func (a *call) receipt(job string) (receipt, error) {
	r := receipt{ID: a.RequestID, Job: job}
	if a.Usage != nil {
		r.Input, r.Output = a.Usage.Tokens()-a.Usage.OutputTokens, a.Usage.OutputTokens
		r.Cached = r.Input - a.Usage.InputTokens
	}
	var maybe tasks.Money
	if a.Cost != nil {
		amount, err := tasks.ParseMoney(a.Cost.Amount.String())
		if err == nil {
			maybe, err = tasks.ParseMoney(a.Cost.Maybe.String())
		}
		if err != nil {
			return r, fmt.Errorf("what job %s cost: %w", job, err)
		}
		r.Cost = &amount
	}
	if a.MaybeBilled || a.uncounted() {
		r.Maybe = &maybe
	}
	return r, nil
}
