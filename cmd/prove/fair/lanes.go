package fair

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// parts are the usual shares of lanes.
var parts = map[tasks.Priority]float64{tasks.High: 0.70, tasks.Normal: 0.25, tasks.Low: 0.05}

// lanes floods one lane after the other, low first, and returns the least that a lane with a
// backlog had of its share in any window in which no other lane came or went.
func lanes(ctx context.Context, rdb *redis.Client, apart, window time.Duration) (least float64, err error) {
	a := newArena(rdb, tasks.Rates{Requests: 600}, nil)
	type served struct {
		at   time.Time
		lane tasks.Priority
	}
	var calls []served
	var came []time.Time // of each flood
	order := []tasks.Priority{tasks.Low, tasks.Normal, tasks.High}
	begun := a.now
	for n := range order {
		came = append(came, a.now)
		flood := make([]work, int(apart.Seconds()*10*1.4)) // more than there is time for
		for i := range flood {
			flood[i] = work{tenant: fmt.Sprint(order[n], "-", i%3), lane: order[n]}
		}
		if err := a.submit(ctx, flood...); err != nil {
			return 0, err
		}
		for a.now.Sub(begun) < time.Duration(n+1)*apart {
			w, _, err := a.one(ctx)
			if err != nil {
				return 0, err
			}
			if w.tenant == "" {
				return 0, errors.New("a flood was over too soon")
			}
			calls = append(calls, served{a.now, w.lane})
		}
	}
	least = 1
	for n, from := range came {
		sum := 0.0
		for _, lane := range order[:n+1] {
			sum += parts[lane]
		}
		// What has been handed out before is served first.
		first, _ := slices.BinarySearchFunc(calls, from.Add(3*time.Second), func(s served, t time.Time) int { return s.at.Compare(t) })
		for i := first; i < len(calls) && !calls[i].at.After(from.Add(apart-window)); i++ {
			had := map[tasks.Priority]float64{}
			for _, s := range calls[i:] {
				if s.at.Sub(calls[i].at) >= window {
					break
				}
				had[s.lane] += 0.1
			}
			for _, lane := range order[:n+1] {
				least = min(least, had[lane]/(window.Seconds()*parts[lane]/sum))
			}
		}
	}
	return least, nil
}

// large is how long the largest 5 % of prompts wait, and the rest: 99th percentiles. Twenty
// tenants offer 90 % of what a pool gives, in prompts of very different lengths.
func large(ctx context.Context, rdb *redis.Client, calls int) (large, rest time.Duration, err error) {
	rates := tasks.Rates{Requests: 6000, InputTokens: 1_200_000}
	a, dice := newArena(rdb, rates, nil), rand.New(rand.NewPCG(5, 6))
	size := spread{2000, 30_000}
	var sizes []int64
	mean := 0.0
	for range 20_000 {
		n := size.draw(dice)
		sizes, mean = append(sizes, n), mean+rates.Draw(n, 1).Seconds()/20_000
	}
	slices.Sort(sizes)
	from := sizes[len(sizes)*95/100]
	next := a.now
	var waits [2][]time.Duration
	for n := 0; n < calls; {
		for len(a.line) == 0 || !next.After(a.now) {
			a.now = maxTime(a.now, next)
			if err := a.submit(ctx, work{tenant: fmt.Sprint("t-", dice.IntN(20)), input: size.draw(dice), output: 1}); err != nil {
				return 0, 0, err
			}
			next = next.Add(time.Duration(dice.ExpFloat64() * mean / 0.9 * float64(time.Second)))
		}
		w, waited, err := a.one(ctx)
		if err != nil {
			return 0, 0, err
		}
		kind := 0
		if w.input >= from {
			kind = 1
		}
		waits[kind] = append(waits[kind], waited)
		n++
	}
	for kind := range waits {
		if len(waits[kind]) == 0 {
			return 0, 0, errors.New("no prompt of a size was served")
		}
		slices.Sort(waits[kind])
	}
	p99 := func(list []time.Duration) time.Duration { return list[len(list)*99/100] }
	return p99(waits[1]), p99(waits[0]), nil
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
