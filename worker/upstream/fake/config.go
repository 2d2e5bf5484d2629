package fake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"time"
)

// Config says how the provider behaves.
type Config struct {
	// The limits of one key and dialect; 0 means no limit.
	RequestsPerMinute     float64
	InputTokensPerMinute  float64
	OutputTokensPerMinute float64
	// The capacities of the buckets. RequestBurst 0 means a second's worth, at
	// least 1; the token bursts 0 mean a minute's worth.
	RequestBurst float64
	InputBurst   float64
	OutputBurst  float64

	// MeanLatency is the mean time to the first byte; 0 means none. LatencySigma
	// is the spread of its lognormal; 0 means always the mean.
	MeanLatency  time.Duration
	LatencySigma float64
	// TimePerToken is how long each output token takes; 0 means none.
	TimePerToken time.Duration
	// MeanOutputTokens is the mean length of an answer before max_tokens cuts it
	// off; 0 means 64. OutputSigma is the spread of its lognormal; 0 means
	// always the mean.
	MeanOutputTokens float64
	OutputSigma      float64

	// BatchDelay is how long a batch takes on average; 0 means none. BatchStuck is the part
	// of the batches that never answer half of their lines, and BatchWindow how long until what is left of a batch
	// expires; 0 means 24 h. BatchHidden is how long a fresh batch is answered with 404 and is in no list,
	// and BatchQueue how many requests a key may have in batches that have not ended; 0 means any number.
	BatchDelay, BatchWindow, BatchHidden time.Duration
	BatchStuck                           float64
	BatchQueue                           int

	// Seed shifts every draw; 0 is a seed like any other.
	Seed uint64
	// RequireKey refuses every other key with 401; empty takes any key, and
	// still refuses a call without one.
	RequireKey string
	// Models are globs of the models that exist; none means that all do.
	Models []string
	// Faults are in force from the start and again after a reset.
	Faults []Fault
	// MaxPrompts is how many distinct prompts are counted one by one; 0 means
	// 1,000,000. Beyond, calls with new prompts are counted in the totals only.
	MaxPrompts int

	// OnCall, if set, is told of every call to a model as it ends, from the
	// goroutine that served it; of a batch's line, from whichever finds that it was
	// answered, which holds the provider meanwhile.
	OnCall func(Call)
	// Clock is the provider's time; nil means the real one.
	Clock Clock
}

// Clock is time for a Provider.
type Clock interface {
	Now() time.Time
	// Sleep waits for d, or returns ctx's error as soon as ctx is over.
	Sleep(ctx context.Context, d time.Duration) error
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// complete returns cfg with its defaults, or an error that names every fault.
func (cfg Config) complete() (Config, error) {
	var faults []error
	for name, v := range map[string]float64{
		"RequestsPerMinute": cfg.RequestsPerMinute, "InputTokensPerMinute": cfg.InputTokensPerMinute,
		"OutputTokensPerMinute": cfg.OutputTokensPerMinute, "RequestBurst": cfg.RequestBurst,
		"InputBurst": cfg.InputBurst, "OutputBurst": cfg.OutputBurst, "MeanLatency": float64(cfg.MeanLatency),
		"LatencySigma": cfg.LatencySigma, "TimePerToken": float64(cfg.TimePerToken),
		"MeanOutputTokens": cfg.MeanOutputTokens, "OutputSigma": cfg.OutputSigma, "MaxPrompts": float64(cfg.MaxPrompts),
		"BatchDelay": float64(cfg.BatchDelay), "BatchWindow": float64(cfg.BatchWindow), "BatchHidden": float64(cfg.BatchHidden),
		"BatchStuck": cfg.BatchStuck, "BatchQueue": float64(cfg.BatchQueue),
	} {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			faults = append(faults, fmt.Errorf("%s is %v", name, v))
		}
	}
	for _, glob := range cfg.Models {
		if _, err := path.Match(glob, ""); err != nil {
			faults = append(faults, fmt.Errorf("model %q: %w", glob, err))
		}
	}
	for _, fault := range cfg.Faults {
		if err := fault.check(); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return cfg, fmt.Errorf("fake provider: %w", errors.Join(faults...))
	}
	cfg.RequestBurst = cmp.Or(cfg.RequestBurst, max(1, cfg.RequestsPerMinute/60))
	cfg.InputBurst = cmp.Or(cfg.InputBurst, cfg.InputTokensPerMinute)
	cfg.OutputBurst = cmp.Or(cfg.OutputBurst, cfg.OutputTokensPerMinute)
	cfg.MeanOutputTokens = cmp.Or(cfg.MeanOutputTokens, 64)
	cfg.BatchWindow = cmp.Or(cfg.BatchWindow, 24*time.Hour)
	cfg.MaxPrompts = cmp.Or(cfg.MaxPrompts, 1_000_000)
	if cfg.Clock == nil {
		cfg.Clock = realClock{}
	}
	return cfg, nil
}

func (cfg *Config) hasModel(model string) bool {
	if len(cfg.Models) == 0 {
		return true
	}
	for _, glob := range cfg.Models {
		if ok, err := path.Match(glob, model); ok && err == nil {
			return true
		}
	}
	return false
}

// account returns the allowance of a new key: full buckets.
func (cfg *Config) account(now time.Time) *account {
	return &account{
		requests: newBucket(cfg.RequestsPerMinute, cfg.RequestBurst, now),
		input:    newBucket(cfg.InputTokensPerMinute, cfg.InputBurst, now),
		output:   newBucket(cfg.OutputTokensPerMinute, cfg.OutputBurst, now),
	}
}

// wait sleeps unless there is nothing to wait for.
func (cfg *Config) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	return cfg.Clock.Sleep(ctx, d)
}
