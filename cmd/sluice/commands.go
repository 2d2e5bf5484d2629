package main

import (
	"context"
	"fmt"
	"time"
)

// CLI is the command line.
type CLI struct {
	ConfigFile string `name:"config" placeholder:"FILE" help:"Configuration file (default: $SLUICE_CONFIG, else sluice.yaml if it is there)."`
	LogLevel   string `placeholder:"LEVEL" help:"debug, info, warn or error (default: $SLUICE_LOG_LEVEL, else info)."`

	Run         RunCmd         `cmd:"" help:"Drain a file of prompts at the allowed pace, with no server."`
	Dev         DevCmd         `cmd:"" help:"Everything in one process: API, worker, console, asynqmon."`
	API         APICmd         `cmd:"" name:"api" help:"Run the API and the console."`
	Worker      WorkerCmd      `cmd:"" help:"Run a worker."`
	Submit      SubmitCmd      `cmd:"" help:"Submit a job and print it."`
	Get         GetCmd         `cmd:"" help:"Print a job."`
	Watch       WatchCmd       `cmd:"" help:"Print a job's text as it is produced; exit 0 when it succeeds."`
	Cancel      CancelCmd      `cmd:"" help:"Cancel a job and print it."`
	Pools       PoolsCmd       `cmd:"" help:"List, pause and resume pools."`
	Token       TokenCmd       `cmd:"" help:"Mint a bearer token."`
	Fake        FakeCmd        `cmd:"" help:"Run the fake provider alone: strict token buckets, both dialects, faults on demand."`
	Listen      ListenCmd      `cmd:"" help:"Receive webhooks for development: verify and print a line for each."`
	Config      ConfigCmd      `cmd:"" help:"Look at the configuration."`
	Version     VersionCmd     `cmd:"" help:"Print the version."`
	Healthcheck HealthcheckCmd `cmd:"" hidden:"" help:"Exit 0 when the process of this configuration is ready."`
}

// DevCmd is everything in one process.
type DevCmd struct {
	Grace time.Duration `default:"30s" help:"How long calls and requests in flight may take after a stop signal."`
}

// Run serves until ctx ends.
func (c *DevCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	return dev(ctx, cfg, c.Grace, env.Log, env.Stdout, env.Stderr)
}

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

// APICmd is the role that speaks HTTP.
type APICmd struct {
	Grace time.Duration `default:"30s" help:"How long requests in flight may take after a stop signal."`
}

// WorkerCmd is the role that asks the providers.
type WorkerCmd struct {
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
		return wrongUsage{fmt.Errorf("--max-tokens has to be at least 1")}
	}
	log := env.Log
	if !env.levelSet {
		if log, err = newLog(env.Stderr, "warn"); err != nil {
			return err
		}
	}
	return run(ctx, cfg, runOptions{
		File: c.File, Out: c.Out, Text: c.Text, Model: c.Model, MaxTokens: c.MaxTokens, Fresh: c.Fresh,
		Progress: !c.NoProgress && terminal(env.Stderr), Grace: c.Grace,
	}, log, env.Stdin, env.Stdout, env.Stderr)
}

// Run serves until ctx ends.
func (c *APICmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	secret := []byte(cfg.Auth.HMACSecret)
	if len(secret) == 0 && cfg.Auth.JWKSURL == "" && cfg.Auth.JWKSFile == "" {
		if secret, err = cfg.Secret(); err != nil {
			return err
		}
	}
	return serveAPI(ctx, cfg, roles{api: true, grace: c.Grace}, env.Log, secret, nil)
}

// Run works until ctx ends.
func (c *WorkerCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	return serveWorker(ctx, cfg, c.Grace, env.Log)
}
