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
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/mattn/go-isatty"
	"github.com/redis/go-redis/v9/logging"

	"github.com/sluicehq/sluice/cmd/sluice/config"
)

func main() {
	os.Exit(start())
}

// start gives program the process's own streams and signals. A second signal
// ends the process at once; what it had in hand is taken up by others.
func start() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// go-redis writes lines of its own, of another form, about errors that it also returns.
	logging.Disable()
	signals := make(chan os.Signal, 2) // two that come at once are two
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(1)
	}()
	return program(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
}

// Env is what a command may touch of the world around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Environ        []string
	Log            *slog.Logger

	vars     config.Environment
	config   string // --config
	levelSet bool   // somebody asked for a log level
}

// Config reads the configuration. Its error names every fault.
func (e *Env) Config() (*config.Config, error) {
	c, faults := config.Load(e.config, e.Environ)
	if len(faults) > 0 {
		return nil, faults
	}
	return c, nil
}

// wrongUsage is an error of the command line: exit code 2.
type wrongUsage struct{ error }

// ExitCode is how an error says with which code the program ends.
func (wrongUsage) ExitCode() int { return 2 }

// exit is thrown through the command line library, which has no other way to
// end after --help.
type exit int

// program runs one command and returns the exit code.
func program(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case exit:
			code = int(v)
		default:
			panic(v)
		}
	}()
	var cli CLI
	env := &Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Environ: environ, vars: config.NewEnvironment(environ)}
	parser, err := kong.New(&cli,
		kong.Name("sluice"),
		kong.Description("Prompt jobs in, drained at exactly the pace that the LLM provider allows."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(env),
	)
	if err != nil {
		panic(err) // the command tree itself is wrong
	}
	parsed, err := parser.Parse(args)
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
	env.config = cli.ConfigFile
	env.levelSet = firstSet(cli.LogLevel, env.vars["SLUICE_LOG_LEVEL"]) != ""
	if env.Log, err = newLog(stderr, firstSet(cli.LogLevel, env.vars["SLUICE_LOG_LEVEL"], "info")); err != nil {
		fmt.Fprintf(stderr, "sluice: %v\n", err)
		return 2
	}
	if err := parsed.Run(); err != nil {
		fmt.Fprintf(stderr, "sluice: %v\n", err)
		if c, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err); ok {
			return c.ExitCode()
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

// newLog writes JSON, or plain text for a reader at a terminal.
func newLog(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	if terminal(w) {
		return slog.New(slog.NewTextHandler(w, o)), nil
	}
	return slog.New(slog.NewJSONHandler(w, o)), nil
}

// terminal reports whether somebody sits at the other end of a stream.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// firstSet returns the first string that is not empty.
func firstSet(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
