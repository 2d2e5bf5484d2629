// Package fair measures how a pool's allowance is shared among tenants: in virtual time,
// with the real scripts on a real Redis. It calls no provider and starts no worker.
package fair

import (
	"context"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
)

//go:embed testdata/servegen.csv
var testdata embed.FS

// Command says how much is shared.
type Command struct {
	Calls   int           `default:"6000" help:"Calls of each measurement of shares."`
	Flood   int           `default:"100000" help:"Jobs that one tenant has waiting beside 200 others."`
	Tenants int           `default:"10000" help:"Tenants with a backlog, of the time that a pick takes."`
	Timeout time.Duration `default:"10m" help:"The measurement fails when it takes longer."`
}

// Validate refuses what measures nothing.
func (c *Command) Validate() error {
	if c.Calls < 500 || c.Flood < 1000 || c.Tenants < 100 {
		return errors.New("at least 500 calls, 1000 jobs of a flood and 100 tenants are needed")
	}
	return nil
}

// Run measures, and prints each figure beside its bar.
func (c *Command) Run(ctx context.Context, lab *rig.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	s, err := lab.Stage(ctx, rig.Config{Name: "fair", RedisArgs: []string{"--appendonly", "no"}})
	if err != nil {
		return err
	}
	return errors.Join(c.measure(ctx, s.RDB), s.Close())
}

func (c *Command) measure(ctx context.Context, rdb *redis.Client) error {
	tenants, err := servegen()
	if err != nil {
		return err
	}
	for _, m := range []func() (string, error){
		func() (string, error) {
			r, err := share(ctx, rdb, tokens, tenants, c.Calls)
			return fmt.Sprintf("%d tenants of the ServeGen trace, tokens bind: Jain's index %.4f over %.0f min (bar 0.99)", len(tenants), r.jain, r.took.Minutes()), err
		},
		func() (string, error) {
			r, err := share(ctx, rdb, tokens, sizes(8), c.Calls)
			return fmt.Sprintf("8 tenants with jobs of 1 to 16 times the size: Jain's index %.4f (bar 0.99); they came %.2f of what the bound allows apart (bar 1)", r.jain, r.gap), err
		},
		func() (string, error) {
			r, err := share(ctx, rdb, tokens, []tenant{{name: "three", weight: 3, input: spread{500, 500}, output: spread{10, 10}}, {name: "one", weight: 1, input: spread{500, 500}, output: spread{10, 10}}}, c.Calls)
			return fmt.Sprintf("weights of 3 to 1: served %.3f to 1 (bar 2.94 to 3.06)", r.served["three"]/r.served["one"]), err
		},
		func() (string, error) {
			p99, stage, err := flood(ctx, rdb, c.Flood, c.Calls)
			return fmt.Sprintf("200 tenants at 30 %% of the pool beside one with %d jobs waiting: p99 wait %.2f s (bar: stage of %.2f s and 2 s)", c.Flood, p99.Seconds(), stage.Seconds()), err
		},
		func() (string, error) {
			least, err := lanes(ctx, rdb, 3*time.Minute, time.Minute)
			return fmt.Sprintf("three lanes flooded in turn: each had at least %.1f %% of its share in any 60 s (bar 95 %%)", 100*least), err
		},
		func() (string, error) {
			large, rest, err := large(ctx, rdb, c.Calls)
			return fmt.Sprintf("prompts at 90 %% of the pool: the largest 5 %% wait %.2f s at p99, the rest %.2f s, %.2f times (bar 1.5)", large.Seconds(), rest.Seconds(), large.Seconds()/rest.Seconds()), err
		},
		func() (string, error) {
			p50, p99, err := picks(ctx, rdb, c.Tenants)
			return fmt.Sprintf("%d tenants with a backlog: a start with its pick takes Redis %.0f µs, p99 %.0f µs (bar 300 µs)", c.Tenants, p50, p99), err
		},
	} {
		line, err := m()
		if err != nil {
			return err
		}
		fmt.Println(line)
	}
	return nil
}

// tokens is an entry allowance: tokens bind before requests do.
var tokens = tasks.Rates{Requests: 500, InputTokens: 30_000, OutputTokens: 8_000}

// tenant is one that always has work.
type tenant struct {
	name          string
	weight        int64
	input, output spread
}

// servegen are the tenants of the trace.
func servegen() ([]tenant, error) {
	f, err := testdata.Open("testdata/servegen.csv")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, err
	}
	number := func(row []string, column string) float64 {
		n, bad := strconv.ParseFloat(row[slices.Index(rows[0], column)], 64)
		err = errors.Join(err, bad)
		return max(1, n)
	}
	var list []tenant
	for _, row := range rows[1:] {
		list = append(list, tenant{
			name: "client-" + row[1], weight: 1,
			input:  spread{number(row, "in_p50"), number(row, "in_p99")},
			output: spread{number(row, "out_p50"), number(row, "out_p99")},
		})
	}
	return list, err
}

// sizes are n tenants whose jobs are 1 to 16 times as large.
func sizes(n int) (list []tenant) {
	for i := range n {
		size := 100 * float64(1+15*i/(n-1))
		list = append(list, tenant{name: fmt.Sprint("size-", size), weight: 1, input: spread{size, size}, output: spread{size / 8, size / 8}})
	}
	return list
}

// shared is how tenants were served that all had a backlog throughout.
type shared struct {
	served map[string]float64
	jain   float64
	gap    float64 // the largest between two, of what the bound allows
	took   time.Duration
}

// share makes calls for tenants that always have work, and measures what each has had
// once all have been learned of.
func share(ctx context.Context, rdb *redis.Client, rates tasks.Rates, tenants []tenant, calls int) (r shared, err error) {
	weights, of := map[string]int64{}, map[string]tenant{}
	for _, t := range tenants {
		weights[t.name], of[t.name] = t.weight, t
	}
	a, dice := newArena(rdb, rates, weights), rand.New(rand.NewPCG(1, 2))
	job := func(t tenant) work {
		return work{tenant: t.name, input: t.input.draw(dice), output: t.output.draw(dice)}
	}
	for _, t := range tenants {
		list := make([]work, 40) // more than the stage holds
		for i := range list {
			list[i] = job(t)
		}
		if err := a.submit(ctx, list...); err != nil {
			return r, err
		}
	}
	warm, begun := calls/5, a.now
	least, most := map[[2]string]float64{}, map[[2]string]float64{}
	for n := range calls {
		name, _, err := a.call(ctx)
		if err == nil {
			err = a.submit(ctx, job(of[name]))
		}
		if err != nil {
			return r, err
		}
		if n == warm {
			begun = a.now
			clear(a.served)
		}
		for i := range tenants {
			for j := range i {
				pair := [2]string{tenants[i].name, tenants[j].name}
				gap := a.served[pair[0]]/float64(tenants[i].weight) - a.served[pair[1]]/float64(tenants[j].weight)
				if n <= warm {
					gap = 0
				}
				least[pair], most[pair] = min(least[pair], gap), max(most[pair], gap)
			}
		}
	}
	var each []float64
	for _, t := range tenants {
		each = append(each, a.served[t.name]/float64(t.weight))
	}
	for pair := range least {
		bound := a.largest[pair[0]]/float64(weights[pair[0]]) + a.largest[pair[1]]/float64(weights[pair[1]])
		r.gap = max(r.gap, (most[pair]-least[pair])/bound)
	}
	r.served, r.jain, r.took = a.served, jain(each), a.now.Sub(begun)
	return r, nil
}

// flood is the 99th percentile of the waits of 200 tenants that offer 30 % of what a
// pool gives, beside one that has many jobs waiting, and what stands between the backlog and the
// provider.
func flood(ctx context.Context, rdb *redis.Client, jobs, calls int) (p99, stage time.Duration, err error) {
	a, dice := newArena(rdb, tasks.Rates{Requests: 600}, nil), rand.New(rand.NewPCG(3, 4))
	heavy := make([]work, jobs)
	for i := range heavy {
		heavy[i].tenant = "heavy"
	}
	if err := a.submit(ctx, heavy...); err != nil {
		return 0, 0, err
	}
	stage = time.Duration(len(a.line)) * a.rates.Draw(0, 0)
	gap := func() time.Duration { return time.Duration(dice.ExpFloat64() / 3 * float64(time.Second)) } // of 10 a second
	next := a.now.Add(gap())
	var waits []time.Duration
	for range calls {
		for !next.After(a.now) {
			if err := a.submit(ctx, work{tenant: fmt.Sprint("light-", dice.IntN(200))}); err != nil {
				return 0, 0, err
			}
			next = next.Add(gap())
		}
		tenant, waited, err := a.call(ctx)
		if err != nil {
			return 0, 0, err
		}
		if tenant != "heavy" {
			waits = append(waits, waited)
		}
	}
	if len(waits) == 0 {
		return 0, 0, errors.New("no light tenant was served")
	}
	slices.Sort(waits)
	return waits[len(waits)*99/100], stage, nil
}

var percentiles = regexp.MustCompile(`latency_percentiles_usec_evalsha:p50=([\d.]+),p99=([\d.]+)`)

// picks is how long Redis takes for a start, which picks the next job, among so many tenants
// with a backlog: the median and the 99th percentile, in µs.
func picks(ctx context.Context, rdb *redis.Client, tenants int) (p50, p99 float64, err error) {
	a := newArena(rdb, tokens, nil)
	var list []work
	for i := range 2 * tenants {
		list = append(list, work{tenant: fmt.Sprint("t-", i%tenants), input: int64(1 + i%500), output: 10})
	}
	if err := a.submit(ctx, list...); err != nil {
		return 0, 0, err
	}
	if err := rdb.ConfigResetStat(ctx).Err(); err != nil {
		return 0, 0, err
	}
	for range min(2000, len(list)-100) {
		k := a.line[0]
		a.line = a.line[1:]
		_, next, err := a.store.Start(ctx, k) // of one that nobody took: the same but for a list
		if err != nil {
			return 0, 0, err
		}
		a.line = append(a.line, next...)
	}
	info, err := rdb.Info(ctx, "latencystats").Result()
	if err != nil {
		return 0, 0, err
	}
	m := percentiles.FindStringSubmatch(info)
	if m == nil {
		return 0, 0, fmt.Errorf("no word of Redis on how long scripts took: %.200s", info)
	}
	p50, err = strconv.ParseFloat(m[1], 64)
	if err == nil {
		p99, err = strconv.ParseFloat(m[2], 64)
	}
	return p50, p99, err
}
