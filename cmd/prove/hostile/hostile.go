// Package hostile proves that one tenant slows no other. Each attack, of a tenant with
// an ordinary token, is watched by another tenant, which submits small jobs at a steady
// pace and wants a webhook of each: first alone, then beside the attack.
//
//   - list: pages of one's own jobs with prompts of 20 MiB;
//   - bodies: eight bodies of 20 MiB at a time, which Redis takes;
//   - folder: the same with bodies.url, so that Redis sees none of them;
//   - pieces: the same with "redis:" there, so that Redis takes them in pieces;
//   - drip: batches that are never finished, kept open by a byte now and then;
//   - retry: one refused job retried again and again;
//   - lines: ten batches of 3,000 lines;
//   - hooks: webhooks to 200 receivers that hang;
//   - tokens: requests with bad tokens.
//
// With --leave the other tenant is deleted in place of attacking, by an API that is killed
// on the way: that slows nobody either, goes on by itself, and leaves nothing.
//
// An attack has a rate, so that the attacker, which shares the processors with what it
// attacks, is not what the other waits for. The proof judges: a bar that is missed is
// an error.
package hostile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Command chooses attacks and how long they are watched.
type Command struct {
	Only   []string      `enum:"list,bodies,folder,pieces,drip,retry,lines,hooks,tokens" help:"Attacks, separated by commas, of ${enum}; all without it."`
	Rounds int           `default:"1" help:"How often each attack is watched; the figures are medians."`
	Span   time.Duration `default:"3s" help:"How long an idle system and an attack are watched in a round; a webhook may come later."`
	Slow   bool          `help:"Tell what held Redis for more than 5 ms during the attacks."`
	Leave  int           `help:"In place of attacks delete a tenant of so many jobs, from 4,000 on, whose API is killed on the way."`
}

// The bars.
const (
	mostSlower = 3.0             // times the idle 99th percentile of submits
	mostHook   = 2 * time.Second // from a submit to its webhook, the longest
	mostMemory = 300 << 20       // bytes of the API at any time
)

// errSlowed says that a bar was missed.
var errSlowed = errors.New("one tenant slowed another past a bar")

// Validate refuses what measures nothing, and what is no proof any more.
func (c *Command) Validate() error {
	if c.Rounds < 1 || c.Span < time.Second || c.Span > 8*time.Second {
		return errors.New("at least one round and a span of 1s to 8s are needed")
	}
	if c.Leave != 0 && c.Leave < 2*leavingEnded {
		return errors.New("a tenant that is deleted has at least 4,000 jobs")
	}
	return nil
}

// Run makes each attack on processes of its own.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	if c.Leave > 0 {
		return c.leave(ctx, lab)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "attack\tsubmit p50, p99 idle\tattacked\tp99 times\twebhook p50, longest\tAPI's memory\tfailed\tattacker's requests\t")
	met := true
	for _, a := range attacks {
		if len(c.Only) > 0 && !slices.Contains(c.Only, a.name) {
			continue
		}
		ok, err := c.watch(ctx, lab, a, t)
		if err != nil {
			return errors.Join(fmt.Errorf("attack %s: %w", a.name, err), t.Flush())
		}
		met = met && ok
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Printf("\nbars: the 99th percentile of submits at most %.0f times as long, each webhook within %s, API at most %d MiB, no submit failed\n",
		mostSlower, mostHook, mostMemory>>20)
	fmt.Printf("machine: %d processors, shared by the attacker, the victim, the provider, Redis, an API and a worker; load of the last minute %s\n",
		runtime.NumCPU(), load())
	if !met {
		return errSlowed
	}
	return nil
}

// load is how many processes wanted to run in the last minute, where the system says.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// stage starts what an attack is on, and who takes part.
func (c *Command) stage(ctx context.Context, lab *rig.Lab, a attack, apis int, env ...string) (stage *rig.Stage, v *victim, f *foe, err error) {
	env = append(env, "SLUICE_WEBHOOKS__ALLOW_HTTP=true", "SLUICE_WEBHOOKS__ALLOW_PRIVATE=true")
	switch a.lie {
	case "redis:":
		env = append(env, "SLUICE_BODIES__URL="+a.lie)
	case "file:":
		dir, err := os.MkdirTemp(lab.Dir, "bodies")
		if err != nil {
			return nil, nil, nil, err
		}
		env = append(env, "SLUICE_BODIES__URL="+a.lie+"//"+dir)
	}
	stage, err = lab.Stage(ctx, rig.Config{
		Name: a.name, APIs: apis, Workers: 1, OneKey: true, Env: env, Flags: []string{"--log-level", "warn"},
		Pool: "limits: {requests_per_minute: 12000, input_tokens_per_minute: 0, output_tokens_per_minute: 0, request_burst: 200, concurrency: 64}",
		Fake: fake.Config{RequireKey: rig.Key(-1), MeanLatency: 20 * time.Millisecond, MeanOutputTokens: 16},
		// What takes at least 5 ms is kept.
		RedisArgs: []string{"--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0", "--latency-monitor-threshold", "5", "--slowlog-log-slower-than", "5000", "--slowlog-max-len", "100000"},
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if v, err = newVictim(stage); err == nil {
		f, err = newFoe(stage)
	}
	if err != nil {
		err = errors.Join(err, stage.Close())
	}
	return stage, v, f, err
}

// watch plays one attack, and writes its line.
func (c *Command) watch(ctx context.Context, lab *rig.Lab, a attack, t *tabwriter.Writer) (met bool, err error) {
	stage, victim, foe, err := c.stage(ctx, lab, a, 1)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	defer victim.close()
	defer foe.close()
	if err := a.prepare(foe, ctx); err != nil {
		return false, fmt.Errorf("prepare: %w", err)
	}
	if _, err := victim.submits(ctx, time.Second); err != nil { // what comes first is slow
		return false, err
	}
	var idle, attacked []seen
	for range c.Rounds {
		alone, beside, err := c.round(ctx, a, victim, foe)
		if err != nil {
			return false, err
		}
		idle, attacked = append(idle, alone), append(attacked, beside)
	}
	if c.Slow {
		if err := slow(ctx, stage.RDB, a.name); err != nil {
			return false, err
		}
	}
	memory, err := stage.APIs[0].PeakMemory()
	if err != nil {
		return false, err
	}
	return line(t, a.name, idle, attacked, memory, foe.summary()), nil
}

// round watches the victim alone and then beside the attack, which ends before the
// next round.
func (c *Command) round(ctx context.Context, a attack, v *victim, f *foe) (alone, beside seen, err error) {
	if alone, err = v.submits(ctx, c.Span); err != nil {
		return alone, beside, err
	}
	attacking, end := context.WithCancel(ctx)
	defer end()
	var all sync.WaitGroup
	all.Go(func() { a.strike(f, attacking) })
	beside, err = v.submits(ctx, c.Span)
	end()
	all.Wait()
	if c.Rounds > 1 {
		err = errors.Join(err, a.clear(f, ctx))
	}
	return alone, beside, err
}

// line writes what was seen of one attack, and says whether the bars were met.
func line(t *tabwriter.Writer, name string, idle, attacked []seen, memory int64, did string) bool {
	p50 := func(s seen) time.Duration { return s.p50 }
	p99 := func(s seen) time.Duration { return s.p99 }
	told := func(s seen) time.Duration { return s.told }
	last := func(s seen) time.Duration { return s.last }
	failed := 0
	for _, s := range attacked {
		failed += s.failed
	}
	alone, beside, longest := median(idle, p99), median(attacked, p99), median(attacked, last)
	times := float64(beside) / float64(max(1, alone))
	met := times <= mostSlower && longest <= mostHook && memory <= mostMemory && failed == 0
	verdict := "missed"
	if met {
		verdict = "met"
	}
	fmt.Fprintf(t, "%s\t%s, %s\t%s, %s\t%.1f\t%s, %s\t%d MiB\t%d\t%s\t%s\n",
		name, milli(median(idle, p50)), milli(alone), milli(median(attacked, p50)), milli(beside), times,
		milli(median(attacked, told)), milli(longest), memory>>20, failed, did, verdict)
	return met
}

func milli(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// median is the middle figure of rounds, the lower one of two.
func median[T any, N cmp.Ordered](rounds []T, figure func(T) N) N {
	var all []N
	for _, r := range rounds {
		all = append(all, figure(r))
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// slow prints what Redis has spent at least 5 ms on, by script or command.
func slow(ctx context.Context, rdb *redis.Client, attack string) error {
	events, err := rdb.Do(ctx, "latency", "latest").Slice()
	if err != nil {
		return fmt.Errorf("read what held Redis up: %w", err)
	}
	for _, e := range events {
		if e, ok := e.([]any); ok && len(e) > 3 { // name, when last, ms then, ms at most
			fmt.Printf("%s: Redis was held up for %v ms at most: %v\n", attack, e[3], e[0])
		}
	}
	log, err := rdb.SlowLogGet(ctx, -1).Result()
	if err != nil {
		return fmt.Errorf("read the slow log: %w", err)
	}
	type kind struct {
		n    int
		most time.Duration
		with string // the last argument of the longest
	}
	kinds := map[string]kind{}
	for _, e := range log {
		name := strings.ToLower(e.Args[0])
		if strings.HasPrefix(name, "eval") {
			name += " " + e.Args[1][:min(8, len(e.Args[1]))]
		}
		k := kinds[name]
		if k.n++; e.Duration > k.most {
			k.most, k.with = e.Duration, e.Args[len(e.Args)-1]
		}
		kinds[name] = k
	}
	for name, k := range kinds {
		fmt.Printf("%s: %d times above 5 ms, %s at most: %s %.60q\n", attack, k.n, milli(k.most), name, k.with)
	}
	return nil
}
