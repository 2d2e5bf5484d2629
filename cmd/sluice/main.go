// Command sluice takes prompt jobs over HTTP, queues them in Redis and drains
// them at the pace that an LLM provider allows.
//
// Results go to standard output, everything else to standard error. The exit
// code is 0 when the work is done, 1 when it failed, 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9/logging"

	"github.com/sluicehq/sluice/cmd/sluice/config"
)

// CLI is the command line.
type CLI struct {
	ConfigFile string `name:"config" placeholder:"FILE" help:"Configuration file (default: $SLUICE_CONFIG, else sluice.yaml if it is there)."`
	LogLevel   string `placeholder:"LEVEL" help:"debug, info, warn or error (default: $SLUICE_LOG_LEVEL, else info)."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`

	Run         RunCmd         `cmd:"" help:"Drain a file of prompts at the allowed pace, with no server."`
	Dev         DevCmd         `cmd:"" help:"Everything in one process: API, worker, console, asynqmon."`
	API         APICmd         `cmd:"" name:"api" help:"Run the API and the console."`
	Worker      WorkerCmd      `cmd:"" help:"Run a worker."`
	Submit      SubmitCmd      `cmd:"" help:"Submit a job and print it."`
	Get         GetCmd         `cmd:"" help:"Print a job."`
	Watch       WatchCmd       `cmd:"" help:"Print a job's text as it is produced; exit 0 when it succeeds."`
	Cancel      CancelCmd      `cmd:"" help:"Cancel jobs: one and print it, or many."`
	Retry       RetryCmd       `cmd:"" help:"Queue failed, canceled or expired jobs again: one and print it, or many."`
	Jobs        JobsCmd        `cmd:"" help:"List jobs, the newest first."`
	Batch       BatchCmd       `cmd:"" help:"Submit, list, watch, fetch, retry and cancel batches."`
	Deliveries  DeliveriesCmd  `cmd:"" help:"List deliveries of webhooks and send them again (scope webhooks:write)."`
	Explain     ExplainCmd     `cmd:"" help:"Print what each second of a job was for, and what comes next."`
	Top         TopCmd         `cmd:"" help:"Show pools, tenants and running jobs as they stand, again and again."`
	Pools       PoolsCmd       `cmd:"" help:"List, pause and resume pools."`
	Token       TokenCmd       `cmd:"" help:"Mint a bearer token."`
	Tokens      TokensCmd      `cmd:"" help:"Make, list and revoke tokens that the server keeps (scope admin)."`
	Tenants     TenantsCmd     `cmd:"" help:"List tenants, and set what they may use (scope admin)."`
	Abuse       AbuseCmd       `cmd:"" help:"List what was found out of the ordinary of tenants, and release them (scope admin)."`
	Auth        AuthCmd        `cmd:"" help:"Look at tokens."`
	Fake        FakeCmd        `cmd:"" help:"Run the fake provider alone: strict token buckets, both dialects, faults on demand."`
	Listen      ListenCmd      `cmd:"" help:"Receive webhooks for development: verify and print a line for each."`
	Simulate    SimulateCmd    `cmd:"" help:"Replay a log of arrivals through the real scheduler in virtual time: shares, waits, forecasts."`
	Reconcile   ReconcileCmd   `cmd:"" help:"Compare what jobs' calls cost with a provider's report, request by request."`
	Seal        SealCmd        `cmd:"" help:"Look after the keys that seal what lies at rest."`
	Config      ConfigCmd      `cmd:"" help:"Look at the configuration."`
	Completion  CompletionCmd  `cmd:"" help:"Print what has a shell complete commands and flags."`
	Help        HelpCmd        `cmd:"" help:"Print the help of a command."`
	Version     VersionCmd     `cmd:"" help:"Print the version."`
	Complete    CompleteCmd    `cmd:"" hidden:"" help:"Print what may come next on a command line."`
	Healthcheck HealthcheckCmd `cmd:"" hidden:"" help:"Exit 0 when the process of this configuration is ready."`
}

func main() {
	os.Exit(withSignals())
}

// withSignals runs program with the process's own streams and signals. A second signal
// ends the process at once; what it had in hand is taken up by others.
func withSignals() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// go-redis writes lines of its own, of another form, about errors that it also returns.
	logging.Disable()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		impatient(signals, time.Now())
		os.Exit(1)
	}()
	return program(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
}

// oneWish is how long signals count as the first one: timeout(1), a shell and a
// container's engine signal a process and then its group, in one act.
const oneWish = 500 * time.Millisecond

// impatient returns at the first signal that is not part of the one that came then.
func impatient(signals <-chan os.Signal, then time.Time) {
	for range signals {
		if time.Since(then) >= oneWish {
			return
		}
	}
}

// errInterrupted is what a command fails of that a signal has ended.
var errInterrupted = errors.New("interrupted")

// exit is thrown through the command line library, which has no other way to
// end after --help.
type exit int

// commandLine is the tree of commands and what a command line said of it.
type commandLine struct {
	cli    CLI
	parser *kong.Kong
}

func newCommandLine() *commandLine {
	c := &commandLine{}
	var err error
	c.parser, err = kong.New(&c.cli,
		kong.Name("sluice"),
		kong.Description("Prompt jobs in, drained at exactly the pace that the LLM provider allows."),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.UsageOnError(),
		kong.Vars{"version": versionLine()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		panic(err) // the command tree itself is wrong
	}
	return c
}

// program runs one command and returns the exit code.
func program(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newCommandLine().run(ctx, args, environ, stdin, stdout, stderr)
}

// run reads one command and runs it; see program. The tree is not to be used again until
// what was read into it is forgotten.
func (c *commandLine) run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case exit:
			code = int(v)
		default:
			panic(v)
		}
	}()
	stdout, stderr = shown(stdout), shown(stderr)
	env := &Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Environ: environ, vars: config.NewEnvironment(environ)}
	c.parser.Stdout, c.parser.Stderr = stdout, stderr
	parsed, err := c.parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "sluice: %v\n", err)
		var at *kong.ParseError
		if errors.As(err, &at) && at.Context.Command() != "" {
			fmt.Fprintf(stderr, "try: sluice %s --help\n", words(at.Context))
		} else {
			fmt.Fprintln(stderr, "try: sluice --help")
		}
		return 2
	}
	env.config = c.cli.ConfigFile
	env.levelSet = firstSet(c.cli.LogLevel, env.vars["SLUICE_LOG_LEVEL"]) != ""
	if env.Log, err = newLog(stderr, firstSet(c.cli.LogLevel, env.vars["SLUICE_LOG_LEVEL"], "info")); err != nil {
		fmt.Fprintf(stderr, "sluice: %v\n", err)
		return 2
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(env); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = errInterrupted
		}
		fmt.Fprintf(stderr, "sluice: %v\n", err)
		if coded, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err); ok {
			return coded.ExitCode()
		}
		return 1
	}
	return 0
}

// words is the command that was being read, without its arguments.
func words(c *kong.Context) string {
	s := ""
	for _, p := range c.Path {
		if p.Command != nil {
			if s != "" {
				s += " "
			}
			s += p.Command.Name
		}
	}
	return s
}
