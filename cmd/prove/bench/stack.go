package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// limits are the pool's, as sluice.yaml has them.
type limits struct {
	requests, input, output float64 // a minute; 0: no limit of tokens
	burst, concurrency      int
}

// wide is an allowance that never binds here: 100,000 requests a second.
func wide() limits { return limits{requests: 6_000_000, burst: 100_000, concurrency: 64} }

// roomy is the largest that a provider publishes, of which single calls use little. The
// places of a wide one may be 20 us late, and are then asked for anew.
func roomy() limits { return limits{requests: 30_000, burst: 500, concurrency: 64} }

// idle is an allowance for a stack without workers.
func idle() limits { return limits{requests: 6000, burst: 10, concurrency: 64} }

// setup says what a stack is made of.
type setup struct {
	name    string // of its folder
	aof     string
	limits  limits
	workers int
	fake    fake.Config
	slow    bool          // tell where Redis's time went
	far     time.Duration // added to each round trip to Redis
	nice    int           // of the workers, see rig.Config

	settings string   // further lines of the configuration
	env      []string // of each process of Sluice
}

// stack is a stage with one API, and what loads it.
type stack struct {
	*rig.Stage
	Options
	setup
	api string // its address
}

// with takes a measurement with a stack, and ends the stack.
func (o Options) with(ctx context.Context, lab *rig.Lab, s setup, take func(*stack) error) (err error) {
	s.fake.RequireKey = rig.Key(-1)
	l := s.limits
	stage, err := lab.Stage(ctx, rig.Config{
		Name: s.name, APIs: 1, Workers: s.workers, OneKey: true, TCP: true, Fake: s.fake, Flags: []string{"--log-level", "warn"},
		RoundTrip: s.far, Nice: s.nice, Settings: s.settings, Env: s.env,
		// A rewrite would fall into one round and not into another.
		RedisArgs: []string{"--appendfsync", s.aof, "--auto-aof-rewrite-percentage", "0"},
		Pool: fmt.Sprintf("limits: {requests_per_minute: %.0f, input_tokens_per_minute: %.0f, output_tokens_per_minute: %.0f, request_burst: %d, concurrency: %d}",
			l.requests, l.input, l.output, l.burst, l.concurrency),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	return take(&stack{stage, o, s, stage.Addrs[0]})
}

// The names of counters of a stack.
const (
	acquires   = "sluice_gate_acquires_total"
	redisCalls = "sluice_redis_calls_total"
	ended      = "sluice_jobs_ended_total"
)

// snapshot is what the processes have counted until a moment.
type snapshot struct {
	at       time.Time
	counters map[string]float64 // of all of Sluice
	api      float64            // the API's Redis calls alone
	commands float64            // that Redis has run, those inside scripts included
}

func (st *stack) snapshot(ctx context.Context) (snapshot, error) {
	s := snapshot{at: time.Now(), counters: map[string]float64{}}
	for _, p := range st.Procs() {
		found, err := p.Counters(ctx)
		if err != nil {
			return s, err
		}
		for name, v := range found {
			s.counters[name] += v
		}
		if p == st.APIs[0] {
			s.api = found[redisCalls]
		}
	}
	stats, err := st.Info(ctx, "commandstats")
	for name, text := range stats {
		if calls, ok := strings.CutPrefix(text, "calls="); ok {
			calls, _, _ = strings.Cut(calls, ",")
			n, err := strconv.ParseFloat(calls, 64)
			if err != nil {
				return s, fmt.Errorf("read Redis's count of %s: %w", name, err)
			}
			s.commands += n
		}
	}
	return s, err
}

// since returns what was counted from an earlier moment on.
func (s snapshot) since(before snapshot) snapshot {
	d := snapshot{s.at, map[string]float64{}, s.api - before.api, s.commands - before.commands}
	for name, v := range s.counters {
		d.counters[name] = v - before.counters[name]
	}
	return d
}

// cpu is the processor time that Redis, the API and each worker have used.
func (st *stack) cpu() (names []string, spent []time.Duration, err error) {
	for _, p := range append([]*rig.Proc{st.Redis}, st.Procs()...) {
		d, err := p.CPU()
		if err != nil {
			return nil, nil, err
		}
		names, spent = append(names, p.Name), append(spent, d)
	}
	return names, spent, nil
}

// profile takes a processor profile of every Sluice process during the next d,
// when a folder for profiles was given. The function returned waits for them.
func (st *stack) profile(ctx context.Context, title string, d time.Duration) (wait func()) {
	if st.Profile == "" {
		return func() {}
	}
	done := make(chan error)
	for _, p := range st.Procs() {
		go func() { done <- p.Profile(ctx, filepath.Join(st.Profile, title+"-"+p.Name+".pprof"), d) }()
	}
	return func() {
		for range st.Procs() {
			if err := <-done; err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}
