package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

const (
	submitConns = 64
	submitTime  = 4 * time.Second // of one round, with wrk
	submitJobs  = 20_000          // of one round, without
	batchLines  = 20_000
)

// Submit measures submits against the reference, in turns, and batches.
type Submit struct {
	Options
	Rounds int `default:"5" help:"Rounds, after a first one for warmth."`
}

// Run measures with everysec and with always, unless one of them was asked for.
func (s *Submit) Run(ctx context.Context, lab *rig.Lab) error {
	return s.measure(ctx, func(ctx context.Context) error {
		for _, aof := range []string{"everysec", "always"} {
			if s.fsync(aof) != aof {
				continue
			}
			if err := s.with(ctx, lab, setup{name: aof, aof: aof, limits: idle()}, func(st *stack) error { return s.rounds(ctx, st) }); err != nil {
				return fmt.Errorf("appendfsync %s: %w", aof, err)
			}
		}
		return nil
	})
}

// rate is what a round of submits came to.
type rate struct {
	perSecond, p50, p99 float64 // the latter in ms; 0: not known
	requests            float64
}

// rates are the rounds of one side.
type rates struct{ perSecond, p50, p99 []float64 }

func (r *rates) add(one rate) {
	r.perSecond, r.p50, r.p99 = append(r.perSecond, one.perSecond), append(r.p50, one.p50), append(r.p99, one.p99)
}

func (s *Submit) rounds(ctx context.Context, st *stack) (err error) {
	reference, err := st.reference(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reference.Kill()) }()
	hammer, tool := st.hammer, "this program, which takes much of the processors; install wrk"
	if _, err := exec.LookPath("wrk"); err == nil {
		hammer, tool = st.wrk, "wrk, one thread"
	}
	var ours, theirs rates
	var lines, ratios, api, redis []float64
	for i := range s.Rounds + 1 {
		their, err := st.fresh(ctx, reference.Ops, hammer)
		if err != nil {
			return fmt.Errorf("reference: %w", err)
		}
		_, before, err := st.cpu()
		if err != nil {
			return err
		}
		wait := st.profile(ctx, "submit-"+st.aof, submitTime)
		our, err := st.fresh(ctx, st.api, hammer)
		wait()
		if err != nil {
			return err
		}
		_, after, err := st.cpu()
		if err != nil {
			return err
		}
		batch, err := st.fresh(ctx, st.api, st.oneBatch)
		if err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		if i == 0 {
			continue // a first one for warmth
		}
		theirs.add(their)
		ours.add(our)
		lines, ratios = append(lines, batch.perSecond), append(ratios, our.perSecond/their.perSecond)
		each := func(of int) float64 { return float64((after[of] - before[of]).Microseconds()) / our.requests }
		redis, api = append(redis, each(0)), append(api, each(1))
	}
	single := median(ours.perSecond)
	return report(fmt.Sprintf("submit: %d connections, 1 KiB prompts, JWT, appendfsync %s, no worker, medians of %d rounds in turns", submitConns, st.aof, len(ratios)), []figure{
		atLeast("share of the reference", "%.1f %%", 100*median(ratios), 60, fmt.Sprintf("rounds from %.1f to %.1f %%", 100*percentile(ratios, 0.01), 100*percentile(ratios, 1))),
		plain("  submits a second", "%.0f", single, fmt.Sprintf("p50 %.1f ms, p99 %.1f ms; load by %s", median(ours.p50), median(ours.p99), tool)),
		plain("  the reference", "%.0f", median(theirs.perSecond), fmt.Sprintf("p50 %.1f ms, p99 %.1f ms; Echo + JWT + one Asynq enqueue", median(theirs.p50), median(theirs.p99))),
		plain("  processor time a submit", "%.0f µs", median(api)+median(redis), fmt.Sprintf("API %.0f, Redis %.0f", median(api), median(redis))),
		atLeast("a batch's lines against single", "%.1f x", median(lines)/single, 3, fmt.Sprintf("%.0f lines a second, %d lines a batch, one connection", median(lines), batchLines)),
	})
}

// fresh empties Redis before a load, so that the memory stays small and each
// round is like the one before.
func (st *stack) fresh(ctx context.Context, addr string, load func(context.Context, string) (rate, error)) (rate, error) {
	if err := st.RDB.FlushAll(ctx).Err(); err != nil {
		return rate{}, fmt.Errorf("empty Redis: %w", err)
	}
	return load(ctx, addr)
}

// oneBatch submits a batch.
func (st *stack) oneBatch(ctx context.Context, addr string) (rate, error) {
	took, err := submit(ctx, addr, 1, [][]byte{st.batch(batchLines, 1024)})
	return rate{perSecond: batchLines / took.Seconds()}, err
}

// hammer submits from this process.
func (st *stack) hammer(ctx context.Context, addr string) (rate, error) {
	request := st.single(job(1, 1024, 16))
	requests := make([][]byte, submitJobs)
	for i := range requests {
		requests[i] = request
	}
	took, err := submit(ctx, addr, submitConns, requests)
	return rate{perSecond: submitJobs / took.Seconds(), requests: submitJobs}, err
}

// wrk submits with wrk, which takes far less of the processors.
func (st *stack) wrk(ctx context.Context, addr string) (rate, error) {
	script := filepath.Join(st.Dir, "submit.lua")
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
`, job(1, 1024, 16), st.Token)
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
	return rate{requests / duration * 1e6, p50 / 1000, p99 / 1000, requests}, nil
}
