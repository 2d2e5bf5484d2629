package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/cmd/sluice/simulate"
	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/worker/limit"
)

// SimulateCmd replays a log of arrivals.
type SimulateCmd struct {
	Trace   string   `required:"" placeholder:"FILE" help:"CSV with a line of names: arrival_s,tenant,input_tokens,output_tokens, or a trace of Azure, Mooncake or ServeGen; - is standard input."`
	Pool    string   `placeholder:"NAME" help:"The pool of the configuration whose limits hold (default: the first)."`
	Limits  string   `placeholder:"R,I,O,C" help:"Requests, input and output tokens a minute, and calls at once, in place of the pool's; 0 is no limit."`
	Load    float64  `placeholder:"SHARE" help:"Scale the times so that the trace asks for this share of the allowance: 0.9, 1.5 (default: the times as they are)."`
	Tenants int      `default:"8" help:"Tenants of a trace that names none."`
	Outage  []string `placeholder:"START:SECONDS" help:"The provider fails from START seconds on for so long; several times."`
	Outages string   `placeholder:"N:SECONDS" help:"So many outages of that length, spread over the trace."`
	Queued  int64    `placeholder:"N" help:"A tenant may have so many jobs waiting; who is refused comes again when it was told to."`
	Answer  float64  `placeholder:"SECONDS" help:"Each caller wants its answer within so long: its job's deadline."`
	Calls   int      `placeholder:"N" help:"Replay the first N calls alone."`
	Seed    uint64   `default:"1" help:"Of what is drawn: the same seed gives the same."`
	JSON    bool     `name:"json" help:"Print an object."`
}

// Run replays the trace on a Redis of its own, which is gone afterwards.
func (c *SimulateCmd) Run(ctx context.Context, env *Env) error {
	cfg, err := env.Config()
	if err != nil {
		return err
	}
	limits, err := c.limits(cfg)
	if err != nil {
		return wrongUsage{err}
	}
	if !c.sound() {
		return wrongUsage{errors.New("--load, --tenants, --calls, --queued and --answer have to be above 0")}
	}
	outages, spread, err := c.outages()
	if err != nil {
		return wrongUsage{err}
	}
	trace, err := c.read(env)
	if err != nil {
		return fmt.Errorf("read the trace %s: %w", c.Trace, err)
	}
	if c.Calls > 0 {
		trace = trace[:min(c.Calls, len(trace))]
	}
	dir, err := os.MkdirTemp("", "sluice-simulate-")
	if err != nil {
		return fmt.Errorf("make a folder for its Redis: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err := redisd.Start(ctx, redisd.Config{Dir: dir, Fsync: "everysec", AllowMemory: true, Log: env.Log})
	if err != nil {
		return err
	}
	client := redis.NewClient(server.Options())
	report, err := simulate.Run(ctx, simulate.Config{
		Redis: client, Trace: trace, Limits: limits, Load: c.Load, Seed: c.Seed, Outages: outages, Spread: spread,
		Queued: c.Queued, Deadline: time.Duration(c.Answer * float64(time.Second)),
		Depth:  depthOf(config.Limits{RequestsPerMinute: limits.RequestsPerMinute, Concurrency: limits.Concurrency}),
		Weight: func(tenant string) int64 { return cfg.Tenant(tenant).Weight },
	})
	if err := errors.Join(err, client.Close(), server.Close()); err != nil {
		return err
	}
	if c.JSON {
		return report.JSON(env.Stdout)
	}
	return report.Text(env.Stdout)
}

func (c *SimulateCmd) sound() bool {
	return c.Load >= 0 && c.Tenants >= 1 && c.Calls >= 0 && c.Queued >= 0 && c.Answer >= 0 && c.Answer < 1e9
}

// outages are those that were asked for.
func (c *SimulateCmd) outages() (all []simulate.Outage, spread simulate.Spread, err error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	two := func(flag, text string) (a, b float64, err error) {
		if n, err := fmt.Sscanf(text+" ", "%g:%g ", &a, &b); n != 2 || err != nil || !(a >= 0 && a < 1e9 && b > 0 && b < 1e9) {
			return 0, 0, fmt.Errorf("%s %q: want two numbers, as 120:60", flag, text)
		}
		return a, b, nil
	}
	for _, text := range c.Outage {
		at, lasts, err := two("--outage", text)
		if err != nil {
			return nil, spread, err
		}
		all = append(all, simulate.Outage{At: seconds(at), For: seconds(lasts)})
	}
	if c.Outages != "" {
		n, lasts, err := two("--outages", c.Outages)
		if err == nil && (n != float64(int(n)) || n < 1 || n > 10_000) {
			err = fmt.Errorf("--outages %q: want a whole number of them, 1 to 10000", c.Outages)
		}
		if err != nil {
			return nil, spread, err
		}
		spread = simulate.Spread{N: int(n), For: seconds(lasts)}
	}
	return all, spread, nil
}

func (c *SimulateCmd) read(env *Env) ([]simulate.Arrival, error) {
	var from io.Reader = env.Stdin
	if c.Trace != "-" {
		f, err := os.Open(c.Trace)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	return simulate.Read(from, simulate.Reading{Tenants: c.Tenants, Seed: c.Seed})
}

// limits are those that were given, or a pool's.
func (c *SimulateCmd) limits(cfg *config.Config) (limit.Limits, error) {
	if c.Limits != "" {
		var l limit.Limits
		if n, err := fmt.Sscanf(c.Limits+",", "%d,%d,%d,%d,", &l.RequestsPerMinute, &l.InputTokensPerMinute, &l.OutputTokensPerMinute, &l.Concurrency); n != 4 || err != nil {
			return l, fmt.Errorf("--limits %q: want four numbers, as 600,100000,20000,0", c.Limits)
		}
		return l, nil
	}
	for _, p := range cfg.Pools {
		if c.Pool == "" || p.Name == c.Pool {
			all := cfg.Allowed(p)
			return limit.Limits{
				RequestsPerMinute: all.RequestsPerMinute, InputTokensPerMinute: all.InputTokensPerMinute,
				OutputTokensPerMinute: all.OutputTokensPerMinute, RequestBurst: int(all.RequestBurst), Concurrency: all.Concurrency,
			}, nil
		}
	}
	return limit.Limits{}, fmt.Errorf("--pool %q: the configuration has no such pool", c.Pool)
}
