package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/worker/upstream"
)

const (
	submitConns = 64
	submitTime  = 4 * time.Second // of one round, with wrk
	submitJobs  = 20_000          // of one round, without
	batchLines  = 20_000
)

// rate is what a round of submits came to.
type rate struct {
	perSecond, p50, p99 float64 // the latter in ms; 0: not known
}

// submit measures submits against the reference, in turns, and batches.
func (b *bench) submit(ctx context.Context) error {
	for _, aof := range []string{"everysec", "always"} {
		if b.aof == "" || b.aof == aof {
			if err := b.submitWith(ctx, aof); err != nil {
				return fmt.Errorf("appendfsync %s: %w", aof, err)
			}
		}
	}
	return nil
}

func (b *bench) submitWith(ctx context.Context, aof string) (err error) {
	p, err := startProvider(upstream.FakeConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	st, err := b.newStack(ctx, setup{aof: aof, provider: p.addr, limits: limits{requests: 6000, burst: 10, concurrency: 64}})
	defer st.close()
	if err != nil {
		return err
	}
	reference, err := st.reference(ctx)
	if err != nil {
		return err
	}
	hammer, tool := st.hammer, "this program, which takes much of the processors; install wrk"
	if _, err := exec.LookPath("wrk"); err == nil {
		hammer, tool = st.wrk, "wrk, one thread"
	}
	var ours, theirs []rate
	var lines []float64
	for i := range b.times(5) + 1 {
		// Empty, so that the memory stays small and each round is like the one before.
		if err := st.rdb.FlushAll(ctx).Err(); err != nil {
			return fmt.Errorf("empty Redis: %w", err)
		}
		t, err := hammer(ctx, reference)
		if err != nil {
			return fmt.Errorf("reference: %w", err)
		}
		if err := st.rdb.FlushAll(ctx).Err(); err != nil {
			return fmt.Errorf("empty Redis: %w", err)
		}
		wait := st.profile(ctx, "submit-"+aof, submitTime)
		o, err := hammer(ctx, st.api)
		wait()
		if err != nil {
			return err
		}
		if err := st.rdb.FlushAll(ctx).Err(); err != nil {
			return fmt.Errorf("empty Redis: %w", err)
		}
		request := st.batch(batchLines, 1024)
		c, err := dial(ctx, st.api)
		if err != nil {
			return err
		}
		start := time.Now()
		err = c.expect(202, request)
		took := time.Since(start)
		c.close()
		if err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		if i == 0 {
			continue // a first one for warmth
		}
		theirs, ours = append(theirs, t), append(ours, o)
		lines = append(lines, batchLines/took.Seconds())
	}
	of := func(rates []rate, f func(rate) float64) float64 {
		var values []float64
		for _, r := range rates {
			values = append(values, f(r))
		}
		return median(values)
	}
	perSecond := func(r rate) float64 { return r.perSecond }
	p50 := func(r rate) float64 { return r.p50 }
	p99 := func(r rate) float64 { return r.p99 }
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, ours[i].perSecond/theirs[i].perSecond)
	}
	single := of(ours, perSecond)
	return report(os.Stdout, fmt.Sprintf("submit: %d connections, 1 KiB prompts, JWT, appendfsync %s, no worker, medians of %d rounds in turns", submitConns, aof, len(ours)), []figure{
		atLeast("share of the reference", "%.1f %%", 100*median(ratios), 60, fmt.Sprintf("rounds from %.1f to %.1f %%", 100*percentile(ratios, 0.01), 100*percentile(ratios, 1))),
		plain("  submits a second", "%.0f", single, fmt.Sprintf("p50 %.1f ms, p99 %.1f ms; load by %s", of(ours, p50), of(ours, p99), tool)),
		plain("  the reference", "%.0f", of(theirs, perSecond), fmt.Sprintf("p50 %.1f ms, p99 %.1f ms; Echo + JWT + one Asynq enqueue", of(theirs, p50), of(theirs, p99))),
		atLeast("a batch's lines against single", "%.1f x", median(lines)/single, 3, fmt.Sprintf("%.0f lines a second, %d lines a batch, one connection", median(lines), batchLines)),
	})
}

// hammer submits from this process.
func (st *stack) hammer(ctx context.Context, addr string) (rate, error) {
	request := post(addr, "/v1/jobs", st.token, "application/json", job(1, 1024, 16))
	requests := make([][]byte, submitJobs)
	for i := range requests {
		requests[i] = request
	}
	at := *st
	at.api = addr
	took, err := at.submit(ctx, submitConns, requests)
	return rate{perSecond: submitJobs / took.Seconds()}, err
}

// wrk submits with wrk, which takes far less of the processors.
func (st *stack) wrk(ctx context.Context, addr string) (rate, error) {
	script := filepath.Join(st.dir, "submit.lua")
	// The body holds letters, spaces and JSON's punctuation alone.
	text := fmt.Sprintf(`wrk.method = "POST"
wrk.body = [[%s]]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\nfigures %%d %%d %%d %%d %%d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
`, job(1, 1024, 16), st.token)
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		return rate{}, fmt.Errorf("write a script: %w", err)
	}
	out, err := exec.CommandContext(ctx, "wrk", "-t", "1", "-c", fmt.Sprint(submitConns), "-d", fmt.Sprintf("%.0fs", submitTime.Seconds()),
		"-s", script, "http://"+addr+"/v1/jobs").CombinedOutput()
	if err != nil {
		return rate{}, fmt.Errorf("run wrk: %w: %s", err, out)
	}
	_, figures, _ := strings.Cut(string(out), "\nfigures ")
	var requests, duration, failed, p50, p99 float64
	if _, err := fmt.Sscan(figures, &requests, &duration, &failed, &p50, &p99); err != nil {
		return rate{}, fmt.Errorf("read what wrk says: %w: %s", err, out)
	}
	if failed > 0 {
		return rate{}, fmt.Errorf("%.0f of %.0f submits failed", failed, requests)
	}
	return rate{requests / duration * 1e6, p50 / 1000, p99 / 1000}, nil
}
