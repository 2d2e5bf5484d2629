// Command outage measures how Sluice behaves when something around it fails:
// the provider, another user of its key, Redis, its workers, a clock.
//
// Each scenario starts four workers against a strict fake provider and prints
// figures, each beside the bar that it should clear. It exits with 0 whatever
// the figures are: it reports, and judges nothing. The load comes from this
// process, which shares the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program(ctx)
	stop()
	os.Exit(code)
}

// scenario is one thing that fails.
type scenario struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

func scenarios() []scenario {
	return []scenario{
		{"outage", outage}, {"foreign", foreign}, {"lost", lost}, {"killed", killed}, {"skew", skew},
	}
}

func program(ctx context.Context) int {
	b := &bench{}
	flag.Float64Var(&b.rate, "rate", 20, "calls a second that the provider allows")
	flag.DurationVar(&b.minute, "minute", time.Minute, "how long the outage lasts, and each measurement")
	flag.StringVar(&b.bin, "bin", "", "the program; without it it is built")
	only := flag.String("only", "", "scenarios, separated by commas: outage, foreign, lost, killed, skew; without it all")
	dir := flag.String("dir", "", "an empty folder for data and logs, kept; without it one is made and removed")
	flag.Parse()
	if flag.NArg() > 0 || b.rate < 5 || b.minute < 10*time.Second {
		flag.Usage()
		return 2
	}
	if err := runAll(ctx, b, *dir, *only); err != nil {
		fmt.Fprintln(os.Stderr, "outage:", err)
		return 1
	}
	return 0
}

func runAll(ctx context.Context, b *bench, dir, only string) error {
	if dir == "" {
		made, err := os.MkdirTemp("", "outage")
		if err != nil {
			return err
		}
		defer os.RemoveAll(made)
		dir = made
	}
	if b.bin == "" {
		var err error
		if b.bin, err = rig.Build(ctx, dir); err != nil {
			return err
		}
	}
	chosen := strings.Split(only, ",")
	for _, sc := range scenarios() {
		if only != "" && !slices.Contains(chosen, sc.name) {
			continue
		}
		fmt.Printf("\n%s: 4 workers, %.0f calls/s allowed, burst %.0f, latency 200 ms\n", sc.name, b.rate, burst)
		b.dir = filepath.Join(dir, sc.name)
		if err := errors.Join(sc.run(ctx, b), b.close()); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	return nil
}
