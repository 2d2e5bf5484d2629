package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// mooncake is when requests arrived, and their tokens.
//
//go:embed testdata/mooncake.csv
var mooncake string

// Native measures what the providers' own batches save, and what they cost in time and twice.
type Native struct {
	Options
	Hour    time.Duration `default:"60s" help:"What an hour is scaled to: of the trace, of deadlines and of the providers' batches."`
	Part    int           `default:"3" help:"Of the trace's 2,006 requests, each such one."`
	Window  int           `default:"2" help:"Hours after which the providers let the rest of a batch expire. Theirs are 24; the run takes about so long."`
	Stuck   float64       `default:"0.05" help:"The part of the batches of which half of the lines are never answered."`
	Kills   int           `default:"3" help:"How often a worker is killed while requests arrive."`
	Workers int           `default:"2" help:"Worker processes."`
}

// tokenScale is by how much requests are shorter than in the trace.
const tokenScale = 16

// nativePrice is what each model costs in the ordinary lane; half of it in a batch.
var nativePrice = tasks.Price{Models: "*", Input: 3 * tasks.Unit, Output: 15 * tasks.Unit, Batch: tasks.Unit / 2}

// request is one of the trace, and what became of it.
type request struct {
	at       time.Duration // from the beginning
	prompt   string
	output   int
	hours    int // from its arrival to its deadline; 0: it has none
	deadline time.Time
	id       string
	last     rig.Job
}

// Run replays the trace to two pools, one in each dialect.
func (m *Native) Run(ctx context.Context, lab *rig.Lab) error {
	return m.measure(ctx, func(ctx context.Context) (err error) {
		list, err := m.requests()
		if err != nil {
			return err
		}
		cfg := fake.Config{
			RequestsPerMinute: 6000, RequestBurst: 50, MeanLatency: m.Hour / 720, BatchDelay: m.Hour / 6, BatchWindow: time.Duration(m.Window) * m.Hour, BatchHidden: m.Hour / 30, BatchStuck: m.Stuck,
			Faults: []fake.Fault{
				{Kind: "reset", Model: "batches.create", Probability: 0.04}, {Kind: "500", Model: "batches.create", Probability: 0.04},
				{Kind: "500", Model: "batches.read", Probability: 0.04}, {Kind: "cut", Model: "batches.results", Probability: 0.1},
			},
		}
		second, err := rig.StartProvider(cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, second.Close()) }()
		part := func(n int) time.Duration { return m.Hour / time.Duration(n) }
		pool := fmt.Sprintf("limits: {requests_per_minute: 6000, input_tokens_per_minute: 0, output_tokens_per_minute: 0, request_burst: 50, concurrency: 64}, native_batch: true, batches: {min_room: %s, max_age: %s, poll_interval: %s, spill_before: %s}",
			m.Hour, part(12), part(60), part(2))
		st, err := lab.Stage(ctx, rig.Config{
			Name: "native", APIs: 1, Workers: m.Workers, OneKey: true, TCP: true, Flags: []string{"--log-level", "warn"}, RedisArgs: []string{"--appendfsync", m.fsync("everysec")},
			Pool: pool, Fake: cfg, Settings: fmt.Sprintf("prices: {\"*\": {input: %s, output: %s}}", nativePrice.Input, nativePrice.Output),
			Providers: fmt.Sprintf("  second: {dialect: openai, base_url: \"http://%s/v1\", api_key: %q}\n", second.Addr, rig.Key(-1)),
			Pools:     fmt.Sprintf("  second: {provider: second, models: [\"gpt-*\"], %s}\n", pool),
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, st.Close()) }()
		if err := m.replay(ctx, st, list); err != nil {
			return err
		}
		return m.tell(list, slices.Concat(st.Provider.Calls(0), second.Calls(0)))
	})
}

// requests are those of the trace; a third of those with a deadline has each.
func (m *Native) requests() (list []*request, err error) {
	rows := strings.Split(strings.TrimSpace(mooncake), "\n")[1:]
	for i, row := range rows {
		if i%m.Part != 0 {
			continue
		}
		i /= m.Part
		var n [3]int
		for k, word := range strings.Split(row, ",") {
			if n[k], err = strconv.Atoi(word); err != nil {
				return nil, fmt.Errorf("the trace: %w", err)
			}
		}
		r := &request{at: time.Duration(n[0]) * time.Millisecond * time.Duration(m.Hour/time.Millisecond) / time.Duration(time.Hour/time.Millisecond), output: max(1, n[2]/tokenScale), hours: []int{1, 6, 24, 0}[i%4]}
		r.prompt = fmt.Sprintf("[[tokens:%d]] request %d %s", r.output, i, strings.Repeat("word", n[1]/tokenScale))
		list = append(list, r)
	}
	return list, nil
}

// replay submits the requests as they arrived, kills workers meanwhile, and waits for each end.
func (m *Native) replay(ctx context.Context, st *rig.Stage, list []*request) error {
	client := st.Client()
	defer client.Close()
	arrivals, arriving := errgroup.WithContext(ctx)
	arrivals.SetLimit(64)
	begun, span := time.Now(), list[len(list)-1].at
	arrivals.Go(func() error { return m.kill(arriving, st, span) })
	for i, r := range list {
		if err := rig.Wait(arriving, r.at-time.Since(begun)); err != nil {
			break
		}
		arrivals.Go(func() error { return r.submit(arriving, client, i, m.Hour) })
	}
	if err := arrivals.Wait(); err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(32)
	for _, r := range list {
		work.Go(func() (err error) {
			for err == nil && !r.last.Final() {
				r.last, err = client.Job(ctx, r.id, 20*time.Second)
			}
			return err
		})
	}
	return work.Wait()
}

// kill kills workers in turns.
func (m *Native) kill(ctx context.Context, st *rig.Stage, span time.Duration) error {
	for i := range m.Kills {
		if err := rig.Wait(ctx, span/time.Duration(m.Kills+1)); err != nil {
			return err
		}
		p := st.Workers[i%len(st.Workers)]
		if err := errors.Join(p.Kill(), p.Start()); err != nil {
			return err
		}
	}
	return nil
}

// submit has the request accepted.
func (r *request) submit(ctx context.Context, c *rig.Client, i int, hour time.Duration) error {
	arrived, model := time.Now(), rig.Model
	if i/4%2 == 1 {
		model = "gpt-4.1"
	}
	it := map[string]any{"model": model, "prompt": r.prompt, "max_tokens": r.output}
	if r.hours > 0 {
		r.deadline = time.Now().Add(time.Duration(r.hours) * hour)
		it["deadline"] = r.deadline.UTC().Format(time.RFC3339Nano)
	}
	body, err := json.Marshal(it)
	if err != nil {
		return err
	}
	a, err := c.Ask(ctx, http.MethodPost, "/v1/jobs", fmt.Sprintf("request-%d", i), body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.Body, &r.last); err != nil || r.last.ID == "" {
		return fmt.Errorf("submit %s after it arrived, with a deadline of %d h: status %d, %s", time.Since(arrived).Round(time.Millisecond), r.hours, a.Status, a.Body)
	}
	r.id = r.last.ID
	return nil
}

// bill is what the provider charges for a call, by its own count.
func bill(c rig.Call) tasks.Money {
	var s tasks.Served
	if c.Batch != "" {
		s.Tier = tasks.TierBatch
	}
	return nativePrice.Of(tasks.Usage{InputTokens: c.InputTokens, OutputTokens: c.OutputTokens}, s)
}

// account is what was paid for one request, and what was said of it.
type account struct {
	calls, batched, listed, spilled int
	bill, full                      tasks.Money // by the provider's count; full is one call in the ordinary lane
	receipts                        tasks.Cost
}

// tell holds the providers' bills against what the jobs say, and each end against its deadline.
func (m *Native) tell(list []*request, calls []rig.Call) error {
	of := map[string][]rig.Call{}
	for _, c := range calls {
		if c.Accepted {
			of[c.Prompt] = append(of[c.Prompt], c)
		}
	}
	var all, room account
	met, due, twice, unlisted, failed := 0, 0, 0, 0, 0
	saved := map[int]*account{1: {}, 6: {}, 24: {}}
	for _, r := range list {
		a, err := r.account(of[rig.PromptDigest(r.prompt)])
		if err != nil {
			return err
		}
		all.add(a)
		if a.calls > 1 {
			twice++
		}
		if a.calls > a.listed {
			unlisted++
		}
		if r.last.Status != string(tasks.StatusSucceeded) {
			failed++
		}
		if r.hours == 0 {
			continue
		}
		room.add(a)
		saved[r.hours].add(a)
		due++
		ended, err := time.Parse(time.RFC3339Nano, r.last.FinishedAt)
		if err != nil {
			return fmt.Errorf("job %s: %w", r.id, err)
		}
		if r.last.Status == string(tasks.StatusSucceeded) && !ended.After(r.deadline) {
			met++
		}
	}
	part := func(hours int) string { return fmt.Sprintf("%.1f", saved[hours].saved()) }
	within := "no"
	if all.receipts.Amount <= all.bill && all.bill <= all.receipts.Amount+all.receipts.Maybe {
		within = "yes"
	}
	return report(fmt.Sprintf("native: %d requests of Mooncake's hour, an hour scaled to %s, %d workers killed %d times, both dialects", len(list), m.Hour, m.Workers, m.Kills), []figure{
		atLeast("saved on requests with room, by the providers' bill", "%.1f %%", room.saved(), 45, "deadlines of 1, 6 and 24 h: "+part(1)+", "+part(6)+" and "+part(24)+" %"),
		atLeast("deadlines met", "%.2f %%", 100*float64(met)/float64(due), 99.9, fmt.Sprintf("%d of %d; a quarter of all has none", met, due)),
		atMost("requests paid for in both lanes, or twice, that are not listed so", "%.0f", float64(unlisted), 0, fmt.Sprintf("%d are listed", twice-unlisted)),
		plain("requests with room whose answer a batch brought", "%.1f %%", 100*float64(room.batched)/float64(due), fmt.Sprintf("%d spilled back", room.spilled)),
		{name: "the bill is what the receipts say", value: within, bar: "yes", met: within == "yes", note: fmt.Sprintf("%s, receipts %s to %s", all.bill, all.receipts.Amount, all.receipts.Amount+all.receipts.Maybe)},
		atMost("requests without an answer", "%.0f", float64(failed), 0, ""),
	})
}

// account sums up what one request cost.
func (r *request) account(calls []rig.Call) (a account, err error) {
	for _, c := range calls {
		a.calls++
		a.bill += bill(c)
		c.Batch = ""
		a.full = bill(c)
	}
	for _, at := range r.last.Upstream.Attempts {
		cost, err := at.Cost.Money()
		if err != nil {
			return a, fmt.Errorf("job %s: %w", r.id, err)
		}
		a.receipts = a.receipts.Plus(cost)
		succeeded := at.Outcome == string(tasks.Succeeded)
		if succeeded {
			a.listed++
		}
		if at.MaybeBilled {
			a.listed++
		}
		if succeeded && at.NativeBatch != "" {
			a.batched++
		}
		if at.Outcome == string(tasks.Spilled) {
			a.spilled++
		}
	}
	return a, nil
}

func (a *account) add(b account) {
	a.calls, a.batched, a.listed, a.spilled = a.calls+b.calls, a.batched+b.batched, a.listed+b.listed, a.spilled+b.spilled
	a.bill, a.full, a.receipts = a.bill+b.bill, a.full+b.full, a.receipts.Plus(b.receipts)
}

// saved is the part of its price in the ordinary lane that was not paid.
func (a *account) saved() float64 { return 100 * (1 - float64(a.bill)/float64(max(1, a.full))) }
