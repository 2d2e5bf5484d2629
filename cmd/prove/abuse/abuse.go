// Package abuse measures how well abuse is found, and how often what is none is taken for it: in
// virtual time, with arrivals of real traces.
package abuse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/api/abuse"
)

// Command says how large the world is.
type Command struct {
	Tenants int      `default:"200" help:"Tenants, for two weeks of virtual time."`
	Seeds   []uint64 `default:"4,5,6,7,8" help:"Of everything that is drawn, a world each. The rules were tuned on 1 to 3."`
}

// Validate refuses what measures nothing.
func (c *Command) Validate() error {
	if c.Tenants < 16 || len(c.Seeds) == 0 {
		return errors.New("at least 16 tenants are needed, one for each attack, and a seed")
	}
	return nil
}

// Run measures, and prints each figure beside its bar.
func (c *Command) Run(ctx context.Context) error {
	var all result
	for _, seed := range c.Seeds {
		began := time.Now()
		r, err := c.measure(ctx, seed, minutes)
		if err != nil {
			return err
		}
		all.seeds, all.tenants = append(all.seeds, r.seeds...), append(all.tenants, r.tenants...)
		caught, attacked, falses, _ := r.of(alarm)
		fmt.Printf("abuse: seed %d, %d tenants, two weeks, the second judged, %.0f s: %d of %d attacks, %d false alarms\n", seed, c.Tenants, time.Since(began).Seconds(), caught, attacked, falses)
	}
	fmt.Print(&all)
	return nil
}

const shard = 25 // tenants of one process, with a model of its own

// measure lets the tenants live.
func (c *Command) measure(ctx context.Context, seed uint64, until int) (*result, error) {
	all, err := traces()
	if err != nil {
		return nil, err
	}
	tenants := make([]*tenant, c.Tenants)
	for i := range tenants {
		tenants[i] = newTenant(rand.New(rand.NewPCG(seed, uint64(i))), i, all)
	}
	var g sync.WaitGroup
	room := make(chan struct{}, 4)
	for some := range slices.Chunk(tenants, shard) {
		g.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			rules := abuse.Rules{Window: time.Minute, Learn: 7 * 24 * time.Hour, Model: abuse.NewModel(seed)}
			for minute := range until {
				if ctx.Err() != nil {
					return
				}
				for _, t := range some {
					t.live(&rules, minute)
					t.tell(&rules, minute)
				}
			}
		})
	}
	g.Wait()
	return &result{seeds: []uint64{seed}, tenants: tenants}, ctx.Err()
}

// score above which the model is asked whether it would have told.
const modelAbove = 0.9

const (
	episode = 60 // minutes in which something is told once, though it lasts
	tail    = 10 // minutes after an attack in which what is told is still of the attack
)

// tell notes what is told in a minute.
func (t *tenant) tell(r *abuse.Rules, minute int) {
	if minute < week {
		return
	}
	var told [ways]bool
	now := epoch.Add(time.Duration(minute+1) * time.Minute)
	for _, f := range t.conduct.Signals(r, now) {
		told[rule+int(f.Rule)] = true
	}
	told[alarm] = t.conduct.Ladder.Alarm
	told[model] = t.conduct.Score > modelAbove
	for i, yes := range told {
		switch {
		case !yes:
		case t.begin > 0 && minute >= t.begin && minute < t.end+tail:
			if t.caught[i] == 0 && minute < t.end {
				t.caught[i] = minute
			}
		case t.told[i] == 0 || minute-t.told[i] >= episode:
			t.wrong(i, minute)
		}
	}
}

// wrong counts what was told of no attack.
func (t *tenant) wrong(way, minute int) {
	t.falses[way]++
	t.told[way] = minute
	if way == alarm && t.begin > 0 && minute >= t.end && minute < t.end+2*60 {
		t.after++
	}
}

// result is what a world has shown.
type result struct {
	seeds   []uint64
	tenants []*tenant
}

// of counts what one way has told.
func (r *result) of(way int) (caught, attacked, falses int, times []int) {
	for _, t := range r.tenants {
		falses += t.falses[way]
		if t.begin == 0 || t.attack == insider {
			continue
		}
		attacked++
		if at := t.caught[way]; at > 0 {
			caught++
			times = append(times, at-t.begin+1)
		}
	}
	slices.Sort(times)
	return caught, attacked, falses, times
}

func (r *result) String() string {
	var b strings.Builder
	weeks, after := float64(len(r.tenants)), 0
	for _, t := range r.tenants {
		after += t.after
	}
	caught, attacked, falses, times := r.of(alarm)
	fmt.Fprintf(&b, "seeds %d: alarms of two signals: recall %.1f %% (bar 95 %%) of %d attacks; %.2f false alarms per tenant per 10 weeks (bar 1); %d of %d were what went on for longer than %d min after an attack\n",
		r.seeds, 100*float64(caught)/float64(max(1, attacked)), attacked, 10*float64(falses)/weeks, after, falses, tail)
	if len(times) > 0 {
		fmt.Fprintf(&b, "time to detect: p50 %d min, p90 %d min, longest %d min\n", times[len(times)/2], times[len(times)*9/10], times[len(times)-1])
	}
	fmt.Fprintf(&b, "\n%-48s %8s %8s %10s\n", "attack", "attacks", "found", "p50 min")
	for a := range insider + 1 {
		n, found := 0, []int{}
		for _, t := range r.tenants {
			if t.begin > 0 && t.attack == a {
				if n++; t.caught[alarm] > 0 {
					found = append(found, t.caught[alarm]-t.begin+1)
				}
			}
		}
		slices.Sort(found)
		p50 := "-"
		if len(found) > 0 {
			p50 = fmt.Sprint(found[len(found)/2])
		}
		fmt.Fprintf(&b, "%-48s %8d %8d %10s\n", attackNames[a], n, len(found), p50)
	}
	fmt.Fprintf(&b, "\n%-48s %8s %20s\n", "looks like abuse, and is none", "tenants", "false alarms a week")
	for k := range benigns {
		n, falses := 0, 0
		for _, t := range r.tenants {
			if t.benign == k {
				n, falses = n+1, falses+t.falses[alarm]
			}
		}
		fmt.Fprintf(&b, "%-48s %8d %20d\n", benignNames[k], n, falses)
	}
	fmt.Fprintf(&b, "\n%-48s %8s %10s %8s\n", "alone", "recall %", "precision %", "false")
	for way := range ways {
		name := "alarm"
		switch {
		case way == model:
			name = "model"
		case way >= rule:
			name = abuse.Rule(way - rule).String()
		}
		caught, attacked, falses, _ := r.of(way)
		fmt.Fprintf(&b, "%-48s %8.1f %10.1f %8d\n", name, 100*float64(caught)/float64(max(1, attacked)), 100*float64(caught)/float64(max(1, caught+falses)), falses)
	}
	return b.String()
}
