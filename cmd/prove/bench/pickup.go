package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	warmUps   = 20
	pickups   = 300
	syncCalls = 500
	idleSpan  = 20 * time.Second
)

// pickup measures how soon an idle system sends what it is given, and what
// being idle costs.
func (b *bench) pickup(ctx context.Context) (err error) {
	p, err := startProvider(upstream.FakeConfig{MeanOutputTokens: 8})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	aof := b.fsync("everysec")
	st, err := b.newStack(ctx, setup{aof: aof, provider: p.addr, limits: wide(), workers: 1})
	defer st.close()
	if err != nil {
		return err
	}
	c, err := dial(ctx, st.api)
	if err != nil {
		return err
	}
	defer c.close()

	var picked, accepted []time.Duration
	wait := func() {}
	for i := range warmUps + b.times(pickups) {
		// Apart, and never in step with anything periodic.
		if err := pause(ctx, 40*time.Millisecond+rand.N(60*time.Millisecond)); err != nil {
			return err
		}
		if i == warmUps {
			wait = st.profile(ctx, "pickup", 10*time.Second)
		}
		request := post(st.api, "/v1/jobs", st.token, "application/json", job(uint64(i), 1024, 16))
		start := time.Now()
		if err := c.expect(http.StatusAccepted, request); err != nil {
			return fmt.Errorf("submit: %w", err)
		}
		answered := time.Now()
		select {
		case at := <-p.arrived:
			if i >= warmUps {
				picked = append(picked, at.Sub(start))
				accepted = append(accepted, answered.Sub(start))
			}
		case <-time.After(10 * time.Second):
			return errors.New("a job was not picked up within 10 s")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	wait()

	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	calls, apiCalls, err := st.scrape(ctx)
	if err != nil {
		return err
	}
	spent := map[*child]time.Duration{}
	for _, c := range []*child{st.workers[0], st.server, st.redis} {
		if spent[c], err = c.cpu(); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := pause(ctx, idleSpan); err != nil {
		return err
	}
	span := time.Since(start)
	core := map[*child]float64{}
	for c, was := range spent {
		now, err := c.cpu()
		if err != nil {
			return err
		}
		core[c] = 100 * (now - was).Seconds() / span.Seconds()
	}
	callsAfter, apiCallsAfter, err := st.scrape(ctx)
	if err != nil {
		return err
	}
	api := (apiCallsAfter - apiCalls) / span.Seconds()
	all := (callsAfter[redisCalls] - calls[redisCalls]) / span.Seconds()
	ms, answers := milliseconds(picked), milliseconds(accepted)
	return report(os.Stdout, fmt.Sprintf("pickup: %d submits one at a time to an idle API and worker in separate processes, appendfsync %s", len(ms), aof), []figure{
		atMost("submit to provider, p50", "%.2f ms", percentile(ms, 0.5), 3, "from before the request is written to its headers at the provider"),
		atMost("submit to provider, p99", "%.2f ms", percentile(ms, 0.99), 12, fmt.Sprintf("p90 %.2f, most %.2f ms", percentile(ms, 0.9), percentile(ms, 1))),
		plain("submit to 202, p50", "%.2f ms", percentile(answers, 0.5), fmt.Sprintf("p99 %.2f ms", percentile(answers, 0.99))),
		atMost("idle worker, of a core", "%.2f %%", core[st.workers[0]], 1, fmt.Sprintf("over %.0f s; %.1f Redis round trips a second", span.Seconds(), all-api)),
		plain("  idle API, of a core", "%.2f %%", core[st.server], fmt.Sprintf("%.1f Redis round trips a second", api)),
		plain("  idle Redis, of a core", "%.2f %%", core[st.redis], ""),
	})
}

// sync measures what waiting for the result within the submit adds to asking
// the provider directly.
func (b *bench) sync(ctx context.Context) (err error) {
	p, err := startProvider(upstream.FakeConfig{MeanOutputTokens: 8})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	aof := b.fsync("always")
	st, err := b.newStack(ctx, setup{aof: aof, provider: p.addr, limits: wide(), workers: 1})
	defer st.close()
	if err != nil {
		return err
	}
	through, err := dial(ctx, st.api)
	if err != nil {
		return err
	}
	defer through.close()
	direct, err := dial(ctx, p.addr)
	if err != nil {
		return err
	}
	defer direct.close()

	var slow, fast, writes []time.Duration
	wait := func() {}
	for i := range warmUps + b.times(syncCalls) {
		if i == warmUps {
			wait = st.profile(ctx, "sync", 5*time.Second)
		}
		prompt := prose(uint64(i), 1024)
		ask := post(p.addr, "/v1/messages", "", "application/json",
			fmt.Appendf(nil, `{"model":"claude-bench","max_tokens":16,"messages":[{"role":"user","content":"%s"}]}`, prompt),
			"X-Api-Key: "+providerKey, "Anthropic-Version: 2023-06-01")
		start := time.Now()
		if err := direct.expect(http.StatusOK, ask); err != nil {
			return fmt.Errorf("ask the provider directly: %w", err)
		}
		between := time.Now()
		if i >= warmUps {
			fast = append(fast, between.Sub(start))
		}
		submit := post(st.api, "/v1/jobs", st.token, "application/json", job(uint64(i), 1024, 16), "Prefer: wait=30")
		start = time.Now()
		if err := through.expect(http.StatusOK, submit); err != nil {
			return fmt.Errorf("submit and wait: %w", err)
		}
		if i >= warmUps {
			slow = append(slow, time.Since(start))
		}
		start = time.Now()
		if err := st.rdb.Set(ctx, "bench", prompt, 0).Err(); err != nil {
			return fmt.Errorf("write to Redis: %w", err)
		}
		if i >= warmUps {
			writes = append(writes, time.Since(start))
		}
	}
	wait()
	with, without, set := milliseconds(slow), milliseconds(fast), milliseconds(writes)
	added := func(p float64) float64 { return percentile(with, p) - percentile(without, p) }
	return report(os.Stdout, fmt.Sprintf("sync: %d calls with Prefer: wait in turns with direct ones, API and worker in separate processes, appendfsync %s", len(with), aof), []figure{
		atMost("added, p50", "%.2f ms", added(0.5), 5, fmt.Sprintf("%.2f against %.2f ms", percentile(with, 0.5), percentile(without, 0.5))),
		atMost("added, p99", "%.2f ms", added(0.99), 25, fmt.Sprintf("%.2f against %.2f ms", percentile(with, 0.99), percentile(without, 0.99))),
		plain("one SET in this Redis, p50", "%.2f ms", percentile(set, 0.5), fmt.Sprintf("p99 %.2f ms; what every durable step costs here, added p50 is %.1f of them", percentile(set, 0.99), added(0.5)/percentile(set, 0.5))),
	})
}
