package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream"
)

// outage: the provider answers 529 to everything, and later nothing wrong.
func outage(ctx context.Context, b *bench) error {
	after := b.minute + 10*time.Second // of load for the time after
	if err := b.open(ctx, warmUp+after); err != nil {
		return err
	}
	if err := wait(ctx, warmUp); err != nil {
		return err
	}
	down := time.Now()
	if err := b.stage.Fake.AddFault(upstream.Fault{Kind: "529"}); err != nil {
		return err
	}
	var paused time.Time
	for deadline := down.Add(20 * time.Second); time.Now().Before(deadline); {
		reply, err := b.stage.RedisCommand("EXISTS asynq:{" + rig.Pool + "}:paused")
		if err != nil {
			return err
		}
		if strings.HasPrefix(reply, ":1") {
			paused = time.Now()
			break
		}
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	if err := wait(ctx, time.Until(down.Add(b.minute))); err != nil {
		return err
	}
	b.stage.Fake.ClearFaults()
	up := time.Now()
	if err := wait(ctx, b.minute); err != nil {
		return err
	}

	refused := b.seen(func(c call) bool { return c.Status == 529 })
	if len(refused) == 0 {
		return fmt.Errorf("no call met the outage")
	}
	first := refused[0].At
	var probes, wasted []call
	for _, c := range refused {
		if pings()(c) {
			probes = append(probes, c)
		} else {
			wasted = append(wasted, c)
		}
	}
	flying := 0
	for _, c := range b.seen(nil) {
		if c.At.Before(first) && c.end.After(first) {
			flying++
		}
	}
	if paused.IsZero() {
		row("queue paused after the first refusal", "never", "<= 2 s")
	} else {
		row("queue paused after the first refusal", fmt.Sprintf("%.2f s", paused.Sub(first).Seconds()), "<= 2 s")
	}
	row("calls wasted on the provider, probes left out", fmt.Sprint(len(wasted)), "<= 20 beyond those in flight")
	row("calls in flight at the first refusal", fmt.Sprint(flying), "")
	together, least := 0, time.Duration(0)
	for i := 1; i < len(probes); i++ {
		gap := probes[i].At.Sub(probes[i-1].At)
		if i == 1 || gap < least {
			least = gap
		}
		if probes[i].At.Before(probes[i-1].end) {
			together++
		}
	}
	row("probes, of all 4 workers together", fmt.Sprint(len(probes)), fmt.Sprintf("<= %.0f: one prober", down.Add(b.minute).Sub(first).Seconds()/2.5+1))
	row("probes that overlapped another; least time between two", fmt.Sprintf("%d; %.1f s", together, least.Seconds()), "0; >= 2.5 s")
	calls := b.seen(nil)
	if full, ok := fullPace(calls, up, 5*time.Second, b.rate, 0.97); ok {
		row("full pace (97 % over 5 s) after the provider is back", fmt.Sprintf("%.1f s", full.Sub(up).Seconds()), "<= 20 s")
	} else {
		row("full pace (97 % over 5 s) after the provider is back", "never", "<= 20 s")
	}
	_, limited, all := between(calls, up, up.Add(b.minute))
	row("429s in the first minute, of all calls", fmt.Sprintf("%d of %d", limited, all), "<= 1 in 1,000")
	return b.finish(ctx, b.minute)
}

// foreign: somebody else uses a fifth of the same key.
func foreign(ctx context.Context, b *bench) error {
	if err := b.open(ctx, warmUp+2*b.minute); err != nil {
		return err
	}
	if err := wait(ctx, warmUp); err != nil {
		return err
	}
	start := time.Now()
	begin := start.Add(b.minute) // the use is learned before
	end := begin.Add(b.minute)
	dice := rand.New(rand.NewPCG(1, 2))
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var g errgroup.Group
	for at, n := start, 0; at.Before(end); n++ {
		if err := wait(ctx, time.Until(at)); err != nil {
			return err
		}
		g.Go(func() error { return direct(ctx, client, b.stage.FakeURL, fmt.Sprintf("foreign %d", n%50)) })
		// Independent callers: the times between their calls are exponential.
		at = at.Add(time.Duration(dice.ExpFloat64() / (b.rate * 0.2) * float64(time.Second)))
	}
	if err := g.Wait(); err != nil {
		return err
	}
	theirs := map[string]bool{}
	for n := range 50 {
		theirs[rig.PromptDigest(fmt.Sprintf("foreign %d", n))] = true
	}
	other := b.seen(func(c call) bool { return theirs[c.Prompt] })
	ours := b.seen(func(c call) bool { return !theirs[c.Prompt] && !pings()(c) })
	used, limitedOther, allOther := between(other, begin, end)
	accepted, limited, all := between(ours, begin, end)
	row("used by somebody else, of the allowance", percent(float64(used), b.rate*b.minute.Seconds()), "20 %")
	row("our calls answered 429", fmt.Sprintf("%d of %d, %s", limited, all, percent(float64(limited), float64(all))), "<= 1 %")
	row("the other's calls answered 429", fmt.Sprintf("%d of %d", limitedOther, allOther), "")
	row("used of what is left", percent(float64(accepted), b.rate*b.minute.Seconds()-float64(used)), ">= 97 %")
	used, _, _ = between(other, start, begin)
	accepted, limited, all = between(ours, start, begin)
	row("the minute before, while it is learned: 429s; used of what is left",
		fmt.Sprintf("%d of %d; %s", limited, all, percent(float64(accepted), b.rate*b.minute.Seconds()-float64(used))), "")
	return b.finish(ctx, b.minute)
}

// direct makes one call with the key that the workers use.
func direct(ctx context.Context, client *http.Client, url, prompt string) error {
	body := fmt.Sprintf(`{"model":%q,"max_tokens":%d,"messages":[{"role":"user","content":%q}]}`, rig.Model, maxTokens, prompt)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages", strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-Api-Key", rig.Key(-1))
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Content-Type", "application/json")
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return err
}

// lost: Redis is killed, and comes back without the gate's keys.
func lost(ctx context.Context, b *bench) error {
	if err := b.open(ctx, warmUp+b.minute+5*time.Second); err != nil {
		return err
	}
	if err := wait(ctx, warmUp); err != nil {
		return err
	}
	base := "sluice:limit:{" + rig.Pool + "}:"
	var keys []string
	for _, k := range []string{"gate", "held", "booked", "classes", "ahead", "waiting", "wants", "holders"} {
		keys = append(keys, base+k)
	}
	gone := time.Now()
	if err := b.stage.Redis.Kill(); err != nil {
		return err
	}
	if err := b.stage.Redis.Start(); err != nil {
		return err
	}
	if err := b.stage.AwaitRedis(ctx); err != nil {
		return err
	}
	if _, err := b.stage.RedisCommand("DEL " + strings.Join(keys, " ")); err != nil {
		return err
	}
	back := time.Now()
	if err := wait(ctx, b.minute); err != nil {
		return err
	}
	calls := b.seen(nil)
	_, limited, all := between(calls, gone, back.Add(b.minute))
	row("Redis away, then without the gate's keys", fmt.Sprintf("%.2f s", back.Sub(gone).Seconds()), "")
	row("429s in the next minute, of all calls", fmt.Sprintf("%d of %d", limited, all), "<= 1")
	if full, ok := fullPace(calls, back, 5*time.Second, b.rate, 0.99); ok {
		row("first 5 s at 99 % of the allowance begin after", fmt.Sprintf("%.1f s", full.Sub(back).Seconds()), "<= 30 s")
	} else {
		row("first 5 s at 99 % of the allowance begin after", "never", "<= 30 s")
	}
	half := back.Add(b.minute / 2)
	accepted, _, _ := between(calls, half, back.Add(b.minute))
	row("used of the allowance in the second half of the minute", percent(float64(accepted), b.rate*b.minute.Seconds()/2), ">= 99 %")
	return b.finish(ctx, b.minute)
}

// killed: one of the workers is killed again and again.
func killed(ctx context.Context, b *bench) error {
	if err := b.open(ctx, warmUp+b.minute+10*time.Second); err != nil {
		return err
	}
	if err := wait(ctx, warmUp); err != nil {
		return err
	}
	begin := time.Now()
	const kills = 4
	for i := range kills {
		w := b.stage.Workers[i%len(b.stage.Workers)]
		if err := w.Kill(); err != nil {
			return err
		}
		if err := wait(ctx, 2*time.Second); err != nil {
			return err
		}
		if err := w.Start(); err != nil {
			return err
		}
		if err := wait(ctx, time.Until(begin.Add(b.minute*time.Duration(i+1)/kills))); err != nil {
			return err
		}
	}
	end := time.Now()
	calls := b.seen(nil)
	accepted, limited, all := between(calls, begin, end)
	row(fmt.Sprintf("used of the allowance, a worker killed each %.0f s", b.minute.Seconds()/kills),
		percent(float64(accepted), b.rate*end.Sub(begin).Seconds()), ">= 99 %")
	row("429s, of all calls", fmt.Sprintf("%d of %d", limited, all), "")
	return b.finish(ctx, b.minute)
}
