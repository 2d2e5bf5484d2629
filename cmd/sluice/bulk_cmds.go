package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

// ManyFlags say which jobs a command moves.
type ManyFlags struct {
	ID     []string `arg:"" optional:"" help:"The jobs' ids."`
	Batch  string   `placeholder:"ID" help:"All of this batch that match."`
	Status string   `help:"All with this status that match."`
	Since  string   `placeholder:"TIME" help:"All accepted at this time (2030-01-31T12:00:00Z) or later; 24h is a day ago."`
	Until  string   `placeholder:"TIME" help:"All accepted before this time."`
	JSON   bool     `name:"json" help:"Print what the API answers: of one job a line, of many a line each 10,000 jobs."`
}

// body is what asks for them.
func (f ManyFlags) body(now time.Time) ([]byte, error) {
	filtered := f.Batch != "" || f.Status != "" || f.Since != "" || f.Until != ""
	switch {
	case len(f.ID) == 0 && !filtered:
		return nil, wrongUsage{errors.New("give the ids of jobs, or --batch, --status, --since or --until")}
	case len(f.ID) > 0 && filtered:
		return nil, wrongUsage{errors.New("ids and --batch, --status, --since and --until exclude one another")}
	}
	since, err := ago(f.Since, now)
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("--since: %w", err)}
	}
	until, err := ago(f.Until, now)
	if err != nil {
		return nil, wrongUsage{fmt.Errorf("--until: %w", err)}
	}
	return json.Marshal(struct {
		IDs    []string   `json:"ids,omitempty"`
		Batch  string     `json:"batch,omitempty"`
		Status string     `json:"status,omitempty"`
		Since  *time.Time `json:"since,omitempty"`
		Until  *time.Time `json:"until,omitempty"`
	}{f.ID, f.Batch, f.Status, since, until})
}

// move moves one job and prints it, or many and prints how many.
func (f ManyFlags) move(ctx context.Context, env *Env, c ClientFlags, verb, did string) error {
	body, err := f.body(time.Now())
	if err != nil {
		return err
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	if len(f.ID) == 1 {
		b, err := api.call(ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(f.ID[0])+"/"+verb, nil, nil)
		if err != nil {
			return err
		}
		return OneLine{f.JSON}.print(env.Stdout, b)
	}
	n, err := api.moveAll(ctx, env, "/v1/jobs/"+verb, body, f.JSON, did)
	if err == nil && n < len(f.ID) {
		err = fmt.Errorf("%d of %d %s; the others are not there, or their status does not allow it", n, len(f.ID), did)
	}
	return err
}

// moveAll calls until nothing is left to be moved, and says how many were.
func (c *client) moveAll(ctx context.Context, env *Env, path string, body []byte, lines bool, did string) (n int, err error) {
	defer func() {
		if !lines && (err == nil || n > 0) {
			fmt.Fprintf(env.Stdout, "%d jobs %s\n", n, did)
		}
	}()
	for {
		b, err := c.call(ctx, http.MethodPost, path, nil, body)
		if err != nil {
			return n, err
		}
		var a struct {
			Retried  int  `json:"retried"`
			Canceled int  `json:"canceled"`
			HasMore  bool `json:"has_more"`
			TooLarge int  `json:"too_large"`
			Stopped  *struct {
				Detail     string `json:"detail"`
				RetryAfter int    `json:"retry_after"`
			} `json:"stopped"`
		}
		if err := json.Unmarshal(b, &a); err != nil {
			return n, fmt.Errorf("the answer is not that of a Sluice API: %w", err)
		}
		if n += a.Retried + a.Canceled; lines {
			if err := printLine(env.Stdout, b); err != nil {
				return n, err
			}
		}
		if a.TooLarge > 0 {
			fmt.Fprintf(env.Stderr, "%d jobs are larger than a quota can ever hold, and were passed over\n", a.TooLarge)
		}
		switch {
		case a.Stopped != nil:
			return n, fmt.Errorf("%s Go on in %d s", clean(a.Stopped.Detail), a.Stopped.RetryAfter)
		case !a.HasMore || a.Retried+a.Canceled == 0:
			return n, nil
		}
	}
}

// RetryCmd queues jobs again.
type RetryCmd struct {
	ManyFlags   `embed:""`
	ClientFlags `embed:""`
}

// Run queues the jobs again; without ids all that failed, expired or were canceled and match.
func (c *RetryCmd) Run(ctx context.Context, env *Env) error {
	return c.move(ctx, env, c.ClientFlags, "retry", "were queued again")
}

// CancelCmd cancels jobs.
type CancelCmd struct {
	ManyFlags   `embed:""`
	ClientFlags `embed:""`
}

// Run cancels the jobs; without ids all that wait or run and match.
func (c *CancelCmd) Run(ctx context.Context, env *Env) error {
	return c.move(ctx, env, c.ClientFlags, "cancel", "were canceled")
}

// BatchCmd holds the commands about batches.
type BatchCmd struct {
	Submit  BatchSubmitCmd  `cmd:"" help:"Submit a file of prompts as a batch and print it."`
	List    BatchListCmd    `cmd:"" help:"List batches, the newest first."`
	Get     BatchGetCmd     `cmd:"" help:"Print a batch."`
	Watch   BatchWatchCmd   `cmd:"" help:"Wait for a batch's end and print it; exit 1 when some of its jobs did not succeed."`
	Results BatchResultsCmd `cmd:"" help:"Print the results of a batch, a line of JSON a job."`
	Retry   BatchRetryCmd   `cmd:"" help:"Queue again what did not succeed of a batch."`
	Cancel  BatchCancelCmd  `cmd:"" help:"Cancel what has not ended of a batch and print it."`
}

// BatchSubmitCmd submits a batch.
type BatchSubmitCmd struct {
	File           string `arg:"" help:"Lines of JSON as POST /v1/batches takes them; - is standard input."`
	IdempotencyKey string `placeholder:"KEY" help:"The same key and file is the same batch."`
	OneLine        `embed:""`
	ClientFlags    `embed:""`
}

// Run submits the file under a key, so that it is one batch however often it has to be sent.
func (c *BatchSubmitCmd) Run(ctx context.Context, env *Env) error {
	body, err := inputOf(env, c.File)
	if err != nil {
		return err
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	header := http.Header{"Content-Type": {"application/x-ndjson"}}
	header.Set("Idempotency-Key", firstSet(c.IdempotencyKey, "sluice-cli-"+rand.Text()))
	b, err := again(ctx, false, func() ([]byte, error) { return api.call(ctx, http.MethodPost, "/v1/batches", header, body) })
	if err != nil {
		return err
	}
	return c.print(env.Stdout, b)
}

// BatchListCmd lists batches.
type BatchListCmd struct {
	Status      string `help:"Only with this status: in_progress, canceling or ended."`
	Since       string `placeholder:"TIME" help:"Accepted at this time (2030-01-31T12:00:00Z) or later; 24h is a day ago."`
	Until       string `placeholder:"TIME" help:"Accepted before this time."`
	Limit       int    `default:"20" help:"So many at most, the newest first; 0 is all."`
	JSON        bool   `name:"json" help:"Print each batch as one line of JSON."`
	ClientFlags `embed:""`
}

// batch is what the commands look at of a batch.
type batch struct {
	ID, Status string
	CreatedAt  string `json:"created_at"`
	Counts     struct{ Total, Queued, Running, Succeeded, Failed, Canceled, Expired int64 }
}

// Run prints a table, or a line of JSON a batch.
func (c *BatchListCmd) Run(ctx context.Context, env *Env) error {
	q, err := JobFlags{Status: c.Status, Since: c.Since, Until: c.Until}.query(time.Now())
	if err != nil {
		return err
	}
	t := newRows(env.Stdout, c.JSON, "ID\tSTATUS\tCREATED\tTOTAL\tWAIT\tRUN\tSUCCEEDED\tFAILED\tCANCELED\tEXPIRED")
	return c.list(ctx, env, "/v1/batches", q, c.Limit, t, func(raw []byte) error {
		var g batch
		if err := json.Unmarshal(raw, &g); err != nil {
			return err
		}
		n := g.Counts
		cells := []string{g.ID, g.Status, g.CreatedAt}
		for _, count := range []int64{n.Total, n.Queued, n.Running, n.Succeeded, n.Failed, n.Canceled, n.Expired} {
			cells = append(cells, fmt.Sprint(count))
		}
		return t.row(cells...)
	})
}

// OfBatch names a batch.
type OfBatch struct {
	ID          string `arg:"" help:"The batch's id."`
	ClientFlags `embed:""`
}

func (c OfBatch) path(rest string) string { return "/v1/batches/" + url.PathEscape(c.ID) + rest }

// BatchGetCmd prints a batch.
type BatchGetCmd struct {
	OneLine `embed:""`
	OfBatch `embed:""`
}

// Run prints the batch as it stands.
func (c *BatchGetCmd) Run(ctx context.Context, env *Env) error {
	return c.show(ctx, env, http.MethodGet, c.path(""), nil, c.OneLine)
}

// BatchCancelCmd cancels a batch.
type BatchCancelCmd struct {
	OneLine `embed:""`
	OfBatch `embed:""`
}

// Run cancels the batch and prints it.
func (c *BatchCancelCmd) Run(ctx context.Context, env *Env) error {
	return c.show(ctx, env, http.MethodPost, c.path("/cancel"), nil, c.OneLine)
}

// BatchRetryCmd queues what did not succeed of a batch again.
type BatchRetryCmd struct {
	JSON    bool `name:"json" help:"Print what the API answers, a line each 10,000 jobs."`
	OfBatch `embed:""`
}

// Run queues the jobs again.
func (c *BatchRetryCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	_, err = api.moveAll(ctx, env, c.path("/retry"), nil, c.JSON, "were queued again")
	return err
}

// BatchWatchCmd waits for a batch.
type BatchWatchCmd struct {
	OneLine `embed:""`
	OfBatch `embed:""`
}

// Run says on standard error how the batch stands whenever it is asked, and prints it at its end.
func (c *BatchWatchCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	for known, said := false, ""; ; known = true {
		b, err := again(ctx, known, func() ([]byte, error) {
			return api.call(ctx, http.MethodGet, c.path("?wait="+seconds(waitPiece)), nil, nil)
		})
		if err != nil {
			return err
		}
		var g batch
		if err := json.Unmarshal(b, &g); err != nil || g.ID == "" {
			return errors.New("the answer is not a batch: is this the address of a Sluice API?")
		}
		n := g.Counts
		if now := fmt.Sprintf("%s: %d of %d have ended, %d succeeded", clean(g.ID), n.Total-n.Queued-n.Running, n.Total, n.Succeeded); now != said {
			said = now
			fmt.Fprintln(env.Stderr, said)
		}
		if g.Status != "ended" {
			continue
		}
		if err := c.print(env.Stdout, b); err != nil {
			return err
		}
		if bad := n.Total - n.Succeeded; bad > 0 {
			return fmt.Errorf("%d of %d jobs did not succeed: sluice batch retry %s queues them again", bad, n.Total, clean(g.ID))
		}
		return nil
	}
}

// BatchResultsCmd prints the results of a batch.
type BatchResultsCmd struct {
	Out     string `short:"o" placeholder:"FILE" help:"Write them to this file, which must not be there yet."`
	JSON    bool   `name:"json" help:"Lines of JSON, as they are anyway."`
	OfBatch `embed:""`
}

// Run prints what has ended so far. An answer that breaks off is an error.
func (c *BatchResultsCmd) Run(ctx context.Context, env *Env) (err error) {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	res, err := api.send(ctx, http.MethodGet, c.path("/results"), nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	out := env.Stdout
	if c.Out != "" {
		f, err := os.OpenFile(c.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return wrongUsage{err}
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	if _, err := io.Copy(out, res.Body); err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	return nil
}
