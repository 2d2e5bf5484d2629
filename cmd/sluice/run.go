package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/cmd/sluice/drain"
	"github.com/sluicehq/sluice/tasks"
)

// RunCmd is the main job with no server.
type RunCmd struct {
	File        string   `arg:"" help:"JSON lines as POST /v1/batches takes them, batch lines of OpenAI or Anthropic, bodies of either, a JSON list of these, CSV or TSV with --template, plain text (.txt) with a prompt a line; also as .gz; - is standard input."`
	Out         string   `short:"o" placeholder:"FILE" help:"Where the results go (default: standard output)."`
	Text        bool     `help:"Plain text, whatever the file's name: each line is a prompt."`
	Template    string   `placeholder:"TEXT" help:"What each row of CSV or TSV is asked, with columns' names in braces, as in 'Summarise: {article}'; the other columns go into the result."`
	Model       string   `help:"The model of lines that name none, as plain text and tables do."`
	MaxTokens   int      `default:"1024" help:"Output tokens a job at most, for plain text and tables."`
	Samples     *int     `placeholder:"N" help:"Ask each line so many times; each result says which sample it is."`
	DryRun      bool     `help:"Print models, jobs, tokens, price and time, and send nothing."`
	SkipInvalid bool     `help:"Leave faulty lines out and write them to OUT.invalid.jsonl; needs --out."`
	Ordered     bool     `help:"Results in the input's order: a file is put into order at the end."`
	Format      string   `placeholder:"VENDOR" help:"openai or anthropic: write that vendor's result lines; what a rerun has to know goes to OUT.state."`
	FailOn      []string `placeholder:"END" help:"Answers that ended so are failures: length, refused, empty, filtered."`
	Schema      string   `placeholder:"FILE" help:"JSON Schema (draft 2020-12) that each answer is held to, and asked for again within the pool's max_attempts."`
	Fresh       bool     `help:"Start over: ask again what an earlier run was answered, and write over its results."`
	NoProgress  bool     `help:"No progress: neither a bar on a terminal nor a line each ten seconds."`

	Grace time.Duration `default:"30s" help:"How long calls in flight may take after a stop signal."`
}

// Run drains the file. Its log holds warnings only, unless a level was asked
// for: the summary says the rest.
func (c *RunCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	if c.MaxTokens < 1 {
		return wrongUsage{errors.New("--max-tokens has to be at least 1")}
	}
	if c.Samples != nil && *c.Samples < 1 {
		return wrongUsage{errors.New("--samples has to be at least 1")}
	}
	log := env.forReader()
	o := drain.Options{
		File: c.File, Out: c.Out, Text: c.Text, Template: c.Template, Model: c.Model, MaxTokens: c.MaxTokens,
		DryRun: c.DryRun, SkipInvalid: c.SkipInvalid, Ordered: c.Ordered, Format: c.Format, Schema: c.Schema, Fresh: c.Fresh, NoProgress: c.NoProgress,
	}
	if c.Samples != nil {
		o.Samples = *c.Samples
	}
	for _, f := range c.FailOn {
		o.FailOn = append(o.FailOn, tasks.Finish(f))
	}
	return drain.Run(ctx, drainConfig(cfg, c.Grace, log, env.Stdin, env.Stdout, env.Stderr), o)
}

// drainConfig is a run's view of the configuration, and how it starts its worker.
func drainConfig(cfg *config.Config, grace time.Duration, log *slog.Logger, stdin io.Reader, stdout, stderr io.Writer) drain.Config {
	c := drain.Config{
		Match: cfg.Pool, Prices: cfg.PriceList(), DataDir: cfg.DataDir, OwnRedis: cfg.Redis.URL == "",
		Log: log, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	}
	for _, p := range cfg.Pools {
		l := cfg.Allowed(p)
		provider, _ := cfg.ProviderOf(p.Name)
		c.Pools = append(c.Pools, drain.Pool{
			Name: p.Name, Dialect: provider.Dialect, Models: p.Models, MaxAttempts: p.MaxAttempts, Timeout: p.Timeout,
			Requests: l.RequestsPerMinute, InputTokens: l.InputTokensPerMinute, OutputTokens: l.OutputTokensPerMinute, Burst: l.RequestBurst,
			Guessed: p.FollowProvider,
		})
	}
	if terminal(stderr) {
		c.Bar = rawTerminal(stderr)
	}
	c.Start = func(ctx context.Context, dir string) (*drain.Service, error) {
		own := *cfg
		if c.OwnRedis {
			// So that several runs and a dev server share nothing.
			own.DataDir = dir
		}
		s, err := newService(ctx, &own, roles{worker: true, tell: true, ownKey: true, grace: grace}, log)
		if err != nil {
			return nil, err
		}
		if cfg.UsesFake() {
			fmt.Fprintln(stderr, "sluice: "+fakeNotice)
		}
		made := &drain.Service{
			Record: s.store, Jobs: s.jobs, NewID: s.newID, Adopt: s.pools.Adopt,
			Pauses: map[string]drain.Pause{}, Meters: map[string]drain.Meter{}, Ended: s.ended,
			Waiting: s.pools.Waiting, Status: s.pools.Status,
			Run:   func(ctx context.Context, front func(context.Context) error) error { return s.run(ctx, nil, front) },
			Close: s.close,
		}
		for name, b := range s.breakers {
			if all := s.accounts[name]; all != nil {
				made.Pauses[name], made.Meters[name] = all, all
			} else {
				made.Pauses[name], made.Meters[name] = b, s.healths[name]
			}
		}
		return made, nil
	}
	return c
}
