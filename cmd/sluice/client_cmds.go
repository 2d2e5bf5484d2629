package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Wait is a span given as seconds or as a duration, as in 30 or 2m.
type Wait time.Duration

// UnmarshalText reads one.
func (w *Wait) UnmarshalText(b []byte) error {
	s := string(b)
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		*w = Wait(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is neither seconds nor a duration, as in 30 or 2m", s)
	}
	*w = Wait(d)
	return nil
}

// forever is a wait that only the job's end ends.
const forever = time.Duration(math.MaxInt64 / 4)

// SubmitCmd submits a job.
type SubmitCmd struct {
	Prompt []string `arg:"" optional:"" help:"The prompt; without one it is read from standard input."`

	Model          string            `short:"m" help:"The model to ask."`
	MaxTokens      int               `help:"Output tokens at most (default: the API's)."`
	File           string            `short:"f" placeholder:"FILE" help:"Read the prompt from a file; - is standard input."`
	JSON           string            `name:"json" placeholder:"FILE" help:"Send this body as it is; - is standard input."`
	Priority       string            `help:"high, normal or low."`
	NotBefore      string            `placeholder:"TIME" help:"Not earlier than this (RFC 3339)."`
	Deadline       string            `placeholder:"TIME" help:"Not later than this (RFC 3339)."`
	WebhookURL     string            `name:"webhook-url" placeholder:"URL" help:"Where the end of the job is told."`
	Metadata       map[string]string `placeholder:"KEY=VALUE" help:"Strings to keep with the job."`
	FallbackModel  []string          `placeholder:"MODEL" help:"Models that may answer instead."`
	IdempotencyKey string            `placeholder:"KEY" help:"The same key and body is the same job."`
	Wait           Wait              `placeholder:"SECONDS" help:"How long to wait for the job to end; exit 1 when it fails."`
	Text           bool              `help:"Wait for the end and print the text alone."`
	ClientFlags    `embed:""`
}

// Help says how the text comes.
func (c *SubmitCmd) Help() string { return screenHelp }

// Run submits and prints the job.
func (c *SubmitCmd) Run(ctx context.Context, env *Env) error {
	body, err := c.body(env)
	if err != nil {
		return err
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	wait := time.Duration(c.Wait)
	if c.Text && wait == 0 {
		wait = forever
	}
	j, err := c.submit(ctx, env, api, body, wait)
	if err != nil {
		return err
	}
	if c.Text {
		return j.printText(env.Stdout)
	}
	if err := (OneLine{}).print(env.Stdout, j.raw); err != nil {
		return err
	}
	if wait > 0 {
		return j.failure()
	}
	return nil
}

// submit submits a body and waits for the job's end, up to wait. It has a key, so
// that it is one job however often it has to be sent, and the id is told before the
// wait, so that nobody who gives up loses the job.
func (c *SubmitCmd) submit(ctx context.Context, env *Env, api *client, body []byte, wait time.Duration) (*job, error) {
	header := http.Header{}
	header.Set("Idempotency-Key", firstSet(c.IdempotencyKey, "sluice-cli-"+rand.Text()))
	begun := time.Now()
	b, err := again(ctx, false, func() ([]byte, error) {
		return api.call(ctx, http.MethodPost, "/v1/jobs", header, body)
	})
	if err != nil {
		return nil, err
	}
	j, err := parseJob(b)
	if err != nil {
		return nil, err
	}
	if left := wait - time.Since(begun); wait > 0 && !j.final() && left > 0 {
		fmt.Fprintf(env.Stderr, "%s is %s\n", j.ID, j.Status)
		return api.getJob(ctx, j.ID, left, true)
	}
	return j, nil
}

// submission is the body of a submit as the flags state it.
type submission struct {
	Model      string            `json:"model"`
	Prompt     string            `json:"prompt"`
	MaxTokens  int               `json:"max_tokens,omitempty"`
	Priority   string            `json:"priority,omitempty"`
	NotBefore  string            `json:"not_before,omitempty"`
	Deadline   string            `json:"deadline,omitempty"`
	WebhookURL string            `json:"webhook_url,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Fallback   []string          `json:"fallback_models,omitempty"`
}

// body is what is submitted.
func (c *SubmitCmd) body(env *Env) ([]byte, error) {
	given := 0
	for _, set := range []bool{len(c.Prompt) > 0, c.File != "", c.JSON != ""} {
		if set {
			given++
		}
	}
	if given > 1 {
		return nil, wrongUsage{errors.New("a prompt, --file and --json exclude one another")}
	}
	stated := submission{c.Model, "", c.MaxTokens, c.Priority, c.NotBefore, c.Deadline, c.WebhookURL, c.Metadata, c.FallbackModel}
	if c.JSON != "" {
		if !reflect.ValueOf(stated).IsZero() {
			return nil, wrongUsage{errors.New("--json is the whole body: put the other settings into it")}
		}
		return inputOf(env, c.JSON)
	}
	if c.Model == "" {
		return nil, wrongUsage{errors.New("--model is needed")}
	}
	stated.Prompt = strings.Join(c.Prompt, " ")
	if len(c.Prompt) == 0 {
		b, err := inputOf(env, firstSet(c.File, "-"))
		if err != nil {
			return nil, err
		}
		stated.Prompt = string(b)
	}
	if strings.TrimSpace(stated.Prompt) == "" {
		return nil, wrongUsage{errors.New("the prompt is empty")}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(stated)
	return out.Bytes(), err
}

func inputOf(env *Env, name string) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(env.Stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, wrongUsage{err}
	}
	return b, nil
}

// GetCmd prints a job.
type GetCmd struct {
	ID          string `arg:"" help:"The job's id."`
	Wait        Wait   `placeholder:"SECONDS" help:"How long to wait for the job to end."`
	Text        bool   `xor:"form" help:"Print the text alone; exit 1 when there is none."`
	JSON        bool   `name:"json" xor:"form" help:"Print one line, at a terminal too."`
	ClientFlags `embed:""`
}

// Help says how the text comes.
func (c *GetCmd) Help() string { return screenHelp }

// Run prints the job as it stands. That a job failed is no failure of get,
// unless its text was asked for.
func (c *GetCmd) Run(ctx context.Context, env *Env) error {
	api, err := c.client(env)
	if err != nil {
		return err
	}
	defer api.close()
	j, err := api.getJob(ctx, c.ID, time.Duration(c.Wait), false)
	if err != nil {
		return err
	}
	if c.Text {
		return j.printText(env.Stdout)
	}
	return OneLine{c.JSON}.print(env.Stdout, j.raw)
}

// PoolsCmd holds the commands about pools.
type PoolsCmd struct {
	List    PoolsListCmd    `cmd:"" default:"withargs" help:"List the pools and how they stand (any token)."`
	Pause   PoolsPauseCmd   `cmd:"" help:"Stop a pool; its jobs wait (scope admin)."`
	Resume  PoolsResumeCmd  `cmd:"" help:"Let a pool go on (scope admin)."`
	Tenants PoolsTenantsCmd `cmd:"" help:"Show how tenants share a pool's allowance (scope admin)."`
	Audit   PoolsAuditCmd   `cmd:"" help:"List who paused and resumed a pool, and why (scope admin)."`
}

// PoolsListCmd lists the pools.
type PoolsListCmd struct {
	JSON        bool `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run prints a table.
func (c *PoolsListCmd) Run(ctx context.Context, env *Env) error {
	b, err := c.ask(ctx, env, http.MethodGet, "/v1/status", nil, c.JSON)
	if err != nil || c.JSON {
		return err
	}
	var status struct{ Pools []poolRow }
	if err := json.Unmarshal(b, &status); err != nil {
		return fmt.Errorf("the answer is not the status of an API: %w", err)
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	poolTable(w, status.Pools, time.Now())
	return w.Flush()
}

// orDash is a cell of a table, without what a terminal obeys and kept on its line: also a pipe
// may end at a terminal.
func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	var out bytes.Buffer
	shown := screen{inTurn: inTurn{to: &out}}
	_, _ = shown.Write([]byte(*s)) // to memory
	return firstSet(strings.Join(strings.Fields(out.String()), " "), "-")
}

// PoolsPauseCmd pauses a pool.
type PoolsPauseCmd struct {
	Name        string `arg:"" help:"The pool's name."`
	Reason      string `help:"Why, for whoever looks at the console."`
	Until       string `help:"When the pause ends by itself: a time (2030-01-31T12:00:00Z) or how long from now (90m, 2h). Without it an operator has to resume the pool." placeholder:"TIME"`
	OneLine     `embed:""`
	ClientFlags `embed:""`
}

// Run pauses the pool and prints it.
func (c *PoolsPauseCmd) Run(ctx context.Context, env *Env) error {
	until, err := moment(c.Until, time.Now())
	if err != nil {
		return wrongUsage{fmt.Errorf("--until: %w", err)}
	}
	body, err := json.Marshal(struct {
		Reason string     `json:"reason"`
		Until  *time.Time `json:"until,omitempty"`
	}{c.Reason, until})
	if err != nil {
		return err
	}
	return c.show(ctx, env, http.MethodPost, poolPath(c.Name, "pause"), body, c.OneLine)
}

// moment reads a time of RFC 3339, or how far from now it lies; nil for "".
func moment(text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if d, far := time.ParseDuration(text); far == nil {
		t, err = now.Add(d).Truncate(time.Second), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%q is neither a time such as 2030-01-31T12:00:00Z nor a span such as 2h", text)
	}
	t = t.UTC()
	return &t, nil
}

// PoolsResumeCmd resumes a pool.
type PoolsResumeCmd struct {
	Name        string `arg:"" help:"The pool's name."`
	OneLine     `embed:""`
	ClientFlags `embed:""`
}

// Run resumes the pool and prints it.
func (c *PoolsResumeCmd) Run(ctx context.Context, env *Env) error {
	return c.show(ctx, env, http.MethodPost, poolPath(c.Name, "resume"), nil, c.OneLine)
}

// PoolsAuditCmd lists what operators did to a pool.
type PoolsAuditCmd struct {
	Name        string `arg:"" help:"The pool's name."`
	Limit       int    `default:"20" help:"So many at most, the newest first; 1 to 100."`
	JSON        bool   `name:"json" help:"Print what the API answers."`
	ClientFlags `embed:""`
}

// Run prints a table.
func (c *PoolsAuditCmd) Run(ctx context.Context, env *Env) error {
	b, err := c.ask(ctx, env, http.MethodGet, poolPath(c.Name, "audit")+"?limit="+strconv.Itoa(c.Limit), nil, c.JSON)
	if err != nil || c.JSON {
		return err
	}
	var audit struct {
		Data []struct {
			At     string  `json:"at"`
			Action string  `json:"action"`
			By     string  `json:"by"`
			Reason *string `json:"reason"`
			Until  *string `json:"until"`
		} `json:"data"`
	}
	if err := json.Unmarshal(b, &audit); err != nil {
		return fmt.Errorf("the answer is not the audit of a pool: %w", err)
	}
	w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AT\tACTION\tBY\tUNTIL\tREASON")
	for _, a := range audit.Data {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.At, a.Action, orDash(&a.By), orDash(a.Until), orDash(a.Reason))
	}
	return w.Flush()
}

func poolPath(pool, rest string) string { return "/v1/pools/" + url.PathEscape(pool) + "/" + rest }
