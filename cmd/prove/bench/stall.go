package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Stall proves that workers that do not run all the time, as under a processor
// quota, keep to their allowance and leave little of it unused.
type Stall struct {
	Options
	Only  []string      `enum:"stops,crowd" help:"Parts, separated by commas, of ${enum}; all without it."`
	Stops int           `default:"34" help:"How often the one worker is stopped."`
	Short time.Duration `default:"120ms" help:"The shortest stop."`
	Long  time.Duration `default:"400ms" help:"The longest stop."`
	Every time.Duration `default:"900ms" help:"From one stop's beginning to the next."`
	Seed  uint64        `default:"1" help:"Of the stops."`
	Span  time.Duration `default:"30s" help:"How long four workers are watched beside busy processes."`
}

// The allowance of both parts, and their bars.
const (
	stallRate    = 100.0 // calls a second
	stallBurst   = 10.0
	stallUsed    = 0.95            // of what could be sent, at least
	stallRefused = 1.0 / 1_000     // of the calls, at most
	answered     = 2 * time.Second // the provider notes a call when it has ended
)

// errStalled says that a bar was missed.
var errStalled = errors.New("the allowance was passed, or left unused, by workers that stood still")

// Run takes both parts.
func (s *Stall) Run(ctx context.Context, lab *rig.Lab) error {
	return s.measure(ctx, func(ctx context.Context) error {
		met := true
		for _, part := range []struct {
			name    string
			workers int
			nice    int
			run     func(context.Context, *stack) (bool, error)
		}{
			{"stops", 1, 0, s.stops},
			{"crowd", 4, 5, s.crowd}, // what watches them is not to stand still itself
		} {
			if len(s.Only) > 0 && s.Only[0] != part.name {
				continue
			}
			setup := setup{
				name: "stall-" + part.name, aof: s.fsync("everysec"), workers: part.workers, nice: part.nice,
				limits: limits{requests: 60 * stallRate, burst: stallBurst, concurrency: 64},
				fake:   fake.Config{RequestsPerMinute: 60 * stallRate, RequestBurst: stallBurst, MeanLatency: 200 * time.Millisecond, MeanOutputTokens: 16},
			}
			err := s.with(ctx, lab, setup, func(st *stack) error {
				ok, err := part.run(ctx, st)
				met = met && ok
				return err
			})
			if err != nil {
				return fmt.Errorf("part %s: %w", part.name, err)
			}
		}
		if !met {
			return errStalled
		}
		return nil
	})
}

// stopped is one stop of a worker.
type stopped struct{ from, to time.Time }

// stops stops the one worker now and then while there is more to send than it may.
func (s *Stall) stops(ctx context.Context, st *stack) (bool, error) {
	dice := rand.New(rand.NewPCG(s.Seed, 1))
	span := time.Duration(s.Stops)*s.Every + 2*time.Second
	if err := st.load(ctx, span); err != nil {
		return false, err
	}
	var stops []stopped
	begin := time.Now()
	for i := range s.Stops {
		if err := rig.Wait(ctx, time.Until(begin.Add(time.Duration(i)*s.Every))); err != nil {
			return false, err
		}
		stop, err := still(ctx, st.Workers[0], s.Short+time.Duration(dice.Int64N(int64(s.Long-s.Short)+1)))
		if err != nil {
			return false, err
		}
		stops = append(stops, stop)
	}
	if err := rig.Wait(ctx, time.Until(begin.Add(time.Duration(s.Stops)*s.Every))); err != nil {
		return false, err
	}
	end := time.Now()
	if err := rig.Wait(ctx, answered); err != nil {
		return false, err
	}
	could, stood := allowed(stops, begin, end)
	return st.judge(fmt.Sprintf("stall: one worker stopped %d times, for %.1f of %.1f s; %.0f requests/s, burst %.0f",
		len(stops), stood.Seconds(), end.Sub(begin).Seconds(), stallRate, stallBurst), begin, end, could)
}

// still stops a process for so long.
func still(ctx context.Context, p *rig.Proc, d time.Duration) (s stopped, err error) {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return s, err
	}
	s.from = time.Now()
	err = rig.Wait(ctx, d)
	err = errors.Join(err, p.Signal(syscall.SIGCONT))
	s.to = time.Now()
	return s, err
}

// allowed is how many calls may be sent between two moments by who stands still
// in between: the rate while it runs, and what each stop let the bucket save up.
func allowed(stops []stopped, begin, end time.Time) (calls float64, stood time.Duration) {
	for _, s := range stops {
		stood += s.to.Sub(s.from)
		calls += min(stallBurst, stallRate*s.to.Sub(s.from).Seconds())
	}
	return calls + stallRate*(end.Sub(begin)-stood).Seconds(), stood
}

// crowd watches four workers beside twice as many busy processes as processors.
func (s *Stall) crowd(ctx context.Context, st *stack) (bool, error) {
	busy := 2 * runtime.NumCPU()
	for range busy {
		c := exec.CommandContext(ctx, "nice", "-n", "5", "sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			return false, fmt.Errorf("start a busy process: %w", err)
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	}
	if err := st.load(ctx, s.Span); err != nil {
		return false, err
	}
	begin := time.Now()
	if err := rig.Wait(ctx, s.Span); err != nil {
		return false, err
	}
	end := time.Now()
	if err := rig.Wait(ctx, answered); err != nil {
		return false, err
	}
	return st.judge(fmt.Sprintf("stall: four workers beside %d busy processes on %d processors; %.0f requests/s, burst %.0f", busy, runtime.NumCPU(), stallRate, stallBurst),
		begin, end, stallRate*end.Sub(begin).Seconds())
}

// load queues more than may be sent within span, and waits until the pace is steady.
func (st *stack) load(ctx context.Context, span time.Duration) error {
	if err := st.fill(ctx, int(1.5*stallRate*(span+3*time.Second).Seconds()), 256); err != nil {
		return err
	}
	err := rig.Until(ctx, time.Minute, "calls are made", func(context.Context) (bool, error) { return st.Provider.Tally().Calls > stallRate, nil })
	return err
}

// judge holds what was sent between two moments against what could be.
func (st *stack) judge(title string, begin, end time.Time, could float64) (bool, error) {
	sent, refused := 0.0, 0.0
	var calls []rig.Call
	for _, c := range st.Provider.Calls(0) {
		if c.At.Before(begin) || c.At.After(end) {
			continue
		}
		calls = append(calls, c)
		if c.Accepted {
			sent++
		} else {
			refused++
		}
	}
	figures := []figure{
		atLeast("of what could be sent", "%.1f %%", 100*sent/could, 100*stallUsed, fmt.Sprintf("%.0f calls of %.0f", sent, could)),
		atMost("429s in 1,000 calls", "%.2f", 1_000*refused/max(1, sent+refused), 1_000*stallRefused, strings.TrimSuffix(fmt.Sprintf("%.0f; %s", refused, refusals(calls)), "; ")),
	}
	return figures[0].met && figures[1].met, report(title, figures)
}
