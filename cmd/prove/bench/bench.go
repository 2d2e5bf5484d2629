// Command bench measures Sluice as its users run it: separate processes, a real
// Redis, the strict fake provider. It builds the program, starts everything on
// free loopback ports in a temporary folder, loads it, and prints each figure
// beside the bar that the project holds itself to. It ends only the processes
// that it started.
//
// It reports and does not judge: the exit code is 0 whatever the figures are,
// 1 when something could not be measured, 2 for wrong usage.
//
// The load generator and the fake provider are in this process and share the
// processors with what they measure, so absolute figures are a lower bound and
// move with the machine. Where a bar is a ratio, both sides are measured in
// turns within one run.
//
//	bench [flags] pace | submit | pickup | sync | memory | backlog
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	dir      string // temporary, this run's own
	sluice   string // the program under test
	aof      string
	only     string
	rounds   int
	workers  int
	idle     time.Duration
	profiles string
	slow     bool
	verbose  bool
}

// measurement is one benchmark: its name, what it is for, and how.
type measurement struct {
	name, help string
	run        func(*bench, context.Context) error
}

func measurements() []measurement {
	return []measurement{
		{"pace", "share of the allowance used, 429s, gate and Redis calls a job", (*bench).pace},
		{"submit", "submits a second against a bare Echo + JWT + Asynq handler", (*bench).submit},
		{"pickup", "from a submit to the provider while idle, and what idling costs", (*bench).pickup},
		{"sync", "what Prefer: wait adds to a direct call", (*bench).sync},
		{"memory", "bytes of Redis a queued job", (*bench).memory},
		{"backlog", "submit and drain rates with 200,000 jobs queued", (*bench).backlog},
	}
}

func main() {
	os.Exit(program(os.Args[1:]))
}

func program(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 && args[0] == referenceName {
		return code(serveReference(ctx))
	}

	var b bench
	var limit time.Duration
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&b.sluice, "sluice", "", "the program to measure (default: built from ./cmd/sluice)")
	flags.StringVar(&b.aof, "aof", "", "appendfsync of Redis: everysec or always (default: what the benchmark is about)")
	flags.StringVar(&b.only, "only", "", "one load of pace: requests, output or input (default: all)")
	flags.IntVar(&b.rounds, "rounds", 0, "rounds of those that take several (default: the benchmark's own)")
	flags.IntVar(&b.workers, "workers", 4, "worker processes of pace")
	flags.DurationVar(&b.idle, "idle", 10*time.Second, "how long pace watches the background before its load")
	flags.StringVar(&b.profiles, "profile", "", "folder for processor profiles of each process during the load")
	flags.BoolVar(&b.slow, "slow", false, "show where Redis's time went, by command (pace, backlog)")
	flags.BoolVar(&b.verbose, "v", false, "show what the processes logged")
	flags.DurationVar(&limit, "limit", 10*time.Minute, "the longest that a run may take")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: bench [flags] BENCHMARK")
		for _, m := range measurements() {
			fmt.Fprintf(flags.Output(), "  %-10s%s\n", m.name, m.help)
		}
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	for _, m := range measurements() {
		if flags.NArg() == 1 && m.name == flags.Arg(0) {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			return code(b.measure(ctx, m))
		}
	}
	flags.Usage()
	return 2
}

func code(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// measure prepares what every benchmark needs and runs one.
func (b *bench) measure(ctx context.Context, m measurement) (err error) {
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return fmt.Errorf("make the folder for profiles: %w", err)
		}
	}
	if b.dir, err = os.MkdirTemp("", "sluice-bench"); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.sluice == "" {
		b.sluice = filepath.Join(b.dir, "sluice")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.sluice, "./cmd/sluice")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the program: %w", err)
		}
	} else if b.sluice, err = filepath.Abs(b.sluice); err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	start := time.Now()
	if err := m.run(b, ctx); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	fmt.Printf("\n%d processors, shared with the load generator and the fake provider\n%s; measured in %.0f s\n",
		runtime.NumCPU(), load(), time.Since(start).Seconds())
	return nil
}

// load says how busy the machine is, as far as the system tells.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "load unknown"
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return "load unknown"
	}
	return "load of the machine over 1, 5 and 15 minutes: " + strings.Join(fields[:3], " ")
}

// fsync is the policy that a benchmark uses: its own, unless one was asked for.
func (b *bench) fsync(own string) string {
	if b.aof != "" {
		return b.aof
	}
	return own
}

func (b *bench) times(own int) int {
	if b.rounds > 0 {
		return b.rounds
	}
	return own
}
