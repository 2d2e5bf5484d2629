// Package outage measures how Sluice behaves when something around it fails:
// the provider, another user of its key, Redis, its workers, a clock.
//
// Each scenario starts four workers against a strict fake provider and prints
// figures, each beside the bar that it should clear. It reports, and judges
// nothing.
package outage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// Command chooses scenarios and their size.
type Command struct {
	Rate   float64       `default:"20" help:"Calls a second that the provider allows; at least 5."`
	Minute time.Duration `default:"1m" help:"How long the outage lasts, and each measurement; at least 10s."`
	Only   []string      `enum:"outage,foreign,lost,killed,skew" help:"Scenarios, separated by commas, of ${enum}; all without it."`
}

// Validate refuses what is too little to measure.
func (c *Command) Validate() error {
	if c.Rate < 5 || c.Minute < 10*time.Second {
		return errors.New("a rate of at least 5 and a minute of at least 10s are needed")
	}
	return nil
}

// Run plays each scenario with processes of its own.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	for _, sc := range scenarios() {
		if len(c.Only) > 0 && !slices.Contains(c.Only, sc.name) {
			continue
		}
		fmt.Printf("\n%s: 4 workers, %.0f calls/s allowed, burst %.0f, latency 200 ms\n", sc.name, c.Rate, burst)
		t := &trial{rate: c.Rate, minute: c.Minute}
		if err := errors.Join(t.play(ctx, lab, sc), t.close()); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	return nil
}
