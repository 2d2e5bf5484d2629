package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/cmd/sluice/drain"
	"github.com/sluicehq/sluice/tasks/store"
)

// RunCmd is the main job with no server.
type RunCmd struct {
	File       string        `arg:"" help:"JSON lines as POST /v1/batches takes them, or plain text (.txt) with a prompt a line, or either as .gz; - is standard input."`
	Out        string        `short:"o" placeholder:"FILE" help:"Where the results go (default: standard output)."`
	Text       bool          `help:"Plain text, whatever the file's name: each line is a prompt."`
	Model      string        `help:"The model of lines that name none, as plain text does."`
	MaxTokens  int           `default:"1024" help:"Output tokens a job at most, for plain text."`
	Fresh      bool          `help:"Start over: ask again what an earlier run was answered, and write over its results."`
	NoProgress bool          `help:"No progress bar, even on a terminal."`
	Grace      time.Duration `default:"30s" help:"How long calls in flight may take after a stop signal."`
}

// Run drains the file. Its log holds warnings only, unless a level was asked
// for: the summary says the rest.
func (c *RunCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	if c.MaxTokens < 1 {
		return wrongUsage{fmt.Errorf("--max-tokens has to be at least 1")}
	}
	log := env.Log
	if !env.levelSet {
		if log, err = newLog(env.Stderr, "warn"); err != nil {
			return err
		}
	}
	return drain.Run(ctx, drainConfig(cfg, c.Grace, log, env.Stdin, env.Stdout, env.Stderr), drain.Options{
		File: c.File, Out: c.Out, Text: c.Text, Model: c.Model, MaxTokens: c.MaxTokens, Fresh: c.Fresh,
		Progress: !c.NoProgress && terminal(env.Stderr),
	})
}

// drainConfig is a run's view of the configuration, and how it starts its worker.
func drainConfig(cfg *config.Config, grace time.Duration, log *slog.Logger, stdin io.Reader, stdout, stderr io.Writer) drain.Config {
	c := drain.Config{
		Match: cfg.Pool, DataDir: cfg.DataDir, OwnRedis: cfg.Redis.URL == "",
		Log: log, Stdin: stdin, Stdout: stdout, Stderr: stderr,
	}
	for _, p := range cfg.Pools {
		l := p.Limits
		c.Pools = append(c.Pools, drain.Pool{
			Name: p.Name, Models: p.Models,
			Requests: l.RequestsPerMinute, InputTokens: l.InputTokensPerMinute, OutputTokens: l.OutputTokensPerMinute, Burst: l.RequestBurst,
		})
	}
	c.Start = func(ctx context.Context, dir string) (*drain.Service, error) {
		own := *cfg
		if c.OwnRedis {
			// So that several runs and a dev server share nothing.
			own.DataDir = dir
		}
		s, err := newService(ctx, &own, roles{worker: true, tell: true, grace: grace}, log)
		if err != nil {
			return nil, err
		}
		if cfg.UsesFake() {
			fmt.Fprintln(stderr, "sluice: "+fakeNotice)
		}
		made := &drain.Service{
			Record: s.store, Jobs: s.jobs, NewID: store.NewID, Adopt: s.pools.Adopt,
			Pauses: map[string]drain.Pause{}, Meters: map[string]drain.Meter{}, Ended: s.ended,
			Run:   func(ctx context.Context, front func(context.Context) error) error { return s.run(ctx, front) },
			Close: s.close,
		}
		for name, h := range s.healths {
			made.Pauses[name], made.Meters[name] = s.breakers[name], h
		}
		return made, nil
	}
	return c
}
