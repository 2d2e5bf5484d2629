// Package bench measures Sluice as its users run it: separate processes, a real
// Redis reached by TCP, the strict fake provider. It prints each figure beside
// the bar that the project holds itself to, and does not judge.
//
// The load generator and the fake provider are in this process and share the
// processors with what they measure, so absolute figures are a lower bound and
// move with the machine. Where a bar is a ratio, both sides are measured in
// turns within one run.
package bench

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Options are the flags of every measurement.
type Options struct {
	AOF     string        `name:"aof" enum:",everysec,always" default:"" placeholder:"POLICY" help:"appendfsync of Redis, everysec or always; what the measurement is about without it."`
	Profile string        `type:"path" placeholder:"DIR" help:"A folder for processor profiles of each process during the load."`
	Timeout time.Duration `default:"10m" help:"The longest that a run may take."`
}

// measure prepares what every measurement needs and takes one.
func (o Options) measure(ctx context.Context, take func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if o.Profile != "" {
		if err := os.MkdirAll(o.Profile, 0o755); err != nil {
			return fmt.Errorf("make the folder for profiles: %w", err)
		}
	}
	start := time.Now()
	if err := take(ctx); err != nil {
		return err
	}
	fmt.Printf("\n%d processors, shared with the load generator and the fake provider\n%s; measured in %.0f s\n",
		runtime.NumCPU(), load(), time.Since(start).Seconds())
	return nil
}

// load says how busy the machine is, as far as the system tells.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 3 {
		return "load unknown"
	}
	return "load of the machine over 1, 5 and 15 minutes: " + strings.Join(fields[:3], " ")
}

// fsync is the policy that a measurement uses: its own, unless one was asked for.
func (o Options) fsync(own string) string {
	if o.AOF != "" {
		return o.AOF
	}
	return own
}

// model is what every job asks for.
const model = "claude-bench"
