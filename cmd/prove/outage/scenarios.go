package outage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/limit"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// scenario is one thing that fails.
type scenario struct {
	name    string
	prepare func(*trial, context.Context, *rig.Lab) error // before the processes start; nil: nothing
	minutes time.Duration                                 // of load, beside that for the warm-up
	spare   time.Duration                                 // of load, beside that
	run     func(*trial, context.Context) error
}

func scenarios() []scenario {
	return []scenario{
		{"outage", nil, 1, 10 * time.Second, (*trial).outage},
		{"foreign", nil, 2, 0, (*trial).foreign},
		{"lost", nil, 1, 5 * time.Second, (*trial).lost},
		{"killed", nil, 1, 10 * time.Second, (*trial).killed},
		{"skew", (*trial).setClocks, 1, 0, (*trial).skew},
	}
}

// outage: the provider answers 529 to everything, and later nothing wrong.
func (t *trial) outage(ctx context.Context) error {
	down := time.Now()
	if err := t.stage.Provider.AddFault(fake.Fault{Kind: "529"}); err != nil {
		return err
	}
	paused, err := t.pausedAt(ctx, 20*time.Second)
	if err != nil {
		return err
	}
	if err := rig.Wait(ctx, time.Until(down.Add(t.minute))); err != nil {
		return err
	}
	t.stage.Provider.ClearFaults()
	up := time.Now()
	if err := rig.Wait(ctx, t.minute); err != nil {
		return err
	}

	refused := t.seen(func(c rig.Call) bool { return c.Status == 529 })
	if len(refused) == 0 {
		return errors.New("no call met the outage")
	}
	first := refused[0].At
	var probes []rig.Call
	for _, c := range refused {
		if isPing(c) {
			probes = append(probes, c)
		}
	}
	flying := len(t.seen(func(c rig.Call) bool { return c.At.Before(first) && c.End.After(first) }))
	after := "never"
	if !paused.IsZero() {
		after = fmt.Sprintf("%.2f s", paused.Sub(first).Seconds())
	}
	row("queue paused after the first refusal", after, "<= 2 s")
	row("calls wasted on the provider, probes left out", fmt.Sprint(len(refused)-len(probes)), "<= 20 beyond those in flight")
	row("calls in flight at the first refusal", fmt.Sprint(flying), "")
	rowProbes(probes, down.Add(t.minute).Sub(first))
	t.rowFullPace("full pace (97 % over 5 s) after the provider is back", up, 0.97, "<= 20 s")
	_, limited, all := between(t.seen(nil), up, up.Add(t.minute))
	row("429s in the first minute, of all calls", fmt.Sprintf("%d of %d", limited, all), "<= 1 in 1,000")
	return nil
}

// pausedAt waits until the pool's queue is paused; zero when it is not in time.
func (t *trial) pausedAt(ctx context.Context, most time.Duration) (time.Time, error) {
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		n, err := t.stage.RDB.Exists(ctx, "asynq:{"+rig.Pool+"}:paused").Result()
		if err != nil {
			return time.Time{}, err
		}
		if n > 0 {
			return time.Now(), nil
		}
		if err := rig.Wait(ctx, 5*time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

// rowProbes prints how the probes were spread over an outage.
func rowProbes(probes []rig.Call, span time.Duration) {
	together, least := 0, time.Duration(0)
	for i := 1; i < len(probes); i++ {
		gap := probes[i].At.Sub(probes[i-1].At)
		if i == 1 || gap < least {
			least = gap
		}
		if probes[i].At.Before(probes[i-1].End) {
			together++
		}
	}
	row("probes, of all 4 workers together", fmt.Sprint(len(probes)), fmt.Sprintf("<= %.0f: one prober", span.Seconds()/2.5+1))
	row("probes that overlapped another; least time between two", fmt.Sprintf("%d; %.1f s", together, least.Seconds()), "0; >= 2.5 s")
}

// foreign: somebody else uses a fifth of the same key.
func (t *trial) foreign(ctx context.Context) error {
	start := time.Now()
	begin := start.Add(t.minute) // the use is learned before
	end := begin.Add(t.minute)
	if err := t.use(ctx, start, end, 0.2); err != nil {
		return err
	}
	theirs := map[string]bool{}
	for n := range foreignPrompts {
		theirs[rig.PromptDigest(foreignPrompt(n))] = true
	}
	other := t.seen(func(c rig.Call) bool { return theirs[c.Prompt] })
	ours := t.seen(func(c rig.Call) bool { return !theirs[c.Prompt] && !isPing(c) })
	used, limitedOther, allOther := between(other, begin, end)
	accepted, limited, all := between(ours, begin, end)
	row("used by somebody else, of the allowance", percent(float64(used), t.allowed(t.minute)), "20 %")
	row("our calls answered 429", fmt.Sprintf("%d of %d, %s", limited, all, percent(float64(limited), float64(all))), "<= 1 %")
	row("the other's calls answered 429", fmt.Sprintf("%d of %d", limitedOther, allOther), "")
	row("used of what is left", percent(float64(accepted), t.allowed(t.minute)-float64(used)), ">= 97 %")
	used, _, _ = between(other, start, begin)
	accepted, limited, all = between(ours, start, begin)
	row("the minute before, while it is learned: 429s; used of what is left",
		fmt.Sprintf("%d of %d; %s", limited, all, percent(float64(accepted), t.allowed(t.minute)-float64(used))), "")
	return nil
}

const foreignPrompts = 50

func foreignPrompt(n int) string { return fmt.Sprintf("foreign %d", n%foreignPrompts) }

// use makes calls with the workers' key from start to end, at a share of the rate.
func (t *trial) use(ctx context.Context, start, end time.Time, share float64) error {
	dice := rand.New(rand.NewPCG(1, 2))
	var g errgroup.Group
	for at, n := start, 0; at.Before(end); n++ {
		if err := rig.Wait(ctx, time.Until(at)); err != nil {
			return err
		}
		g.Go(func() error {
			addr := t.stage.Provider.Addr
			c, err := rig.Dial(ctx, addr)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Do(ctx, rig.AskRequest(addr, rig.Key(-1), rig.Model, foreignPrompt(n), maxTokens))
			return err
		})
		// Independent callers: the times between their calls are exponential.
		at = at.Add(time.Duration(dice.ExpFloat64() / (t.rate * share) * float64(time.Second)))
	}
	return g.Wait()
}

// lost: Redis is killed, and comes back without the gate's keys.
func (t *trial) lost(ctx context.Context) error {
	gone := time.Now()
	if err := t.stage.Redis.Kill(); err != nil {
		return err
	}
	if err := t.stage.Redis.Start(); err != nil {
		return err
	}
	if err := t.stage.AwaitRedis(ctx); err != nil {
		return err
	}
	if err := t.stage.RDB.Del(ctx, limit.Keys("sluice", rig.Pool)...).Err(); err != nil {
		return err
	}
	back := time.Now()
	if err := rig.Wait(ctx, t.minute); err != nil {
		return err
	}
	calls := t.seen(nil)
	_, limited, all := between(calls, gone, back.Add(t.minute))
	row("Redis away, then without the gate's keys", fmt.Sprintf("%.2f s", back.Sub(gone).Seconds()), "")
	row("429s in the next minute, of all calls", fmt.Sprintf("%d of %d", limited, all), "<= 1")
	t.rowFullPace("first 5 s at 99 % of the allowance begin after", back, 0.99, "<= 30 s")
	accepted, _, _ := between(calls, back.Add(t.minute/2), back.Add(t.minute))
	row("used of the allowance in the second half of the minute", percent(float64(accepted), t.allowed(t.minute/2)), ">= 99 %")
	return nil
}

// killed: one of the workers is killed again and again.
func (t *trial) killed(ctx context.Context) error {
	begin := time.Now()
	const kills = 4
	for i := range kills {
		w := t.stage.Workers[i%len(t.stage.Workers)]
		if err := w.Kill(); err != nil {
			return err
		}
		if err := rig.Wait(ctx, 2*time.Second); err != nil {
			return err
		}
		if err := w.Start(); err != nil {
			return err
		}
		if err := rig.Wait(ctx, time.Until(begin.Add(t.minute*time.Duration(i+1)/kills))); err != nil {
			return err
		}
	}
	end := time.Now()
	accepted, limited, all := between(t.seen(nil), begin, end)
	row(fmt.Sprintf("used of the allowance, a worker killed each %.0f s", t.minute.Seconds()/kills), percent(float64(accepted), t.allowed(end.Sub(begin))), ">= 99 %")
	row("429s, of all calls", fmt.Sprintf("%d of %d", limited, all), "")
	return nil
}
