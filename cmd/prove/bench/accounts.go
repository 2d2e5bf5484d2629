package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Accounts measures pools of several accounts.
type Accounts struct {
	Options
	Only    []string      `enum:"sum,left" help:"Parts, separated by commas, of ${enum}; all without it."`
	Jobs    int           `default:"5000" help:"Jobs of each part of sum."`
	Workers int           `default:"4" help:"Worker processes."`
	Away    time.Duration `default:"20s" help:"How long the account of left is away."`
	Back    time.Duration `default:"30s" help:"How long is watched after it is well."`
}

// accountBurst is what each account may send at once.
const accountBurst = 10

// Run drains pools of two and of five accounts, and has one of three leave and come back.
func (m *Accounts) Run(ctx context.Context, lab *rig.Lab) error {
	return m.measure(ctx, func(ctx context.Context) error {
		part := func(name string) bool { return len(m.Only) == 0 || slices.Contains(m.Only, name) }
		for _, rates := range [][]float64{{65, 35}, {40, 25, 17, 11, 7}} {
			if !part("sum") {
				break
			}
			if err := m.with(ctx, lab, fmt.Sprintf("sum-%d", len(rates)), rates, func(st *accountStage) error { return m.sum(ctx, st) }); err != nil {
				return fmt.Errorf("%d accounts: %w", len(rates), err)
			}
		}
		for _, c := range []struct{ name, fault string }{{"down", "529"}, {"refused", "401"}, {"spent", "spend"}} {
			if !part("left") {
				break
			}
			if err := m.with(ctx, lab, "left-"+c.name, []float64{30, 30, 30}, func(st *accountStage) error { return m.left(ctx, st, c.name, c.fault) }); err != nil {
				return fmt.Errorf("one of three %s: %w", c.name, err)
			}
		}
		return nil
	})
}

// accountStage is a stage whose pool has accounts of these rates, in calls a second.
type accountStage struct {
	*rig.Stage
	rates []float64
}

func (m *Accounts) with(ctx context.Context, lab *rig.Lab, name string, rates []float64, take func(*accountStage) error) (err error) {
	c := rig.Config{
		Name: "accounts-" + name, APIs: 1, Workers: m.Workers, OneKey: true, TCP: true, Flags: []string{"--log-level", "warn"},
		RedisArgs: []string{"--appendfsync", m.fsync("everysec")}, Pool: "timeout: 30s",
	}
	for i, rate := range rates {
		c.Accounts = append(c.Accounts, rig.Account{
			Name: fmt.Sprintf("account-%d", i+1), Key: rig.Key(i),
			Body: fmt.Sprintf("limits: {requests_per_minute: %.0f, input_tokens_per_minute: 0, output_tokens_per_minute: 0, request_burst: %d, concurrency: 64}", 60*rate, accountBurst),
			Fake: fake.Config{RequestsPerMinute: 60 * rate, RequestBurst: accountBurst, RequireKey: rig.Key(i), MeanLatency: 200 * time.Millisecond, MeanOutputTokens: 16},
		})
	}
	stage, err := lab.Stage(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	return take(&accountStage{stage, rates})
}

// fill has n jobs accepted.
func (st *accountStage) fill(ctx context.Context, n int) error {
	client := st.Client()
	defer client.Close()
	for at := 0; at < n; at += 500 {
		prompts := make([]string, min(500, n-at))
		for i := range prompts {
			prompts[i] = fmt.Sprintf("job %d", at+i)
		}
		if _, err := client.SubmitBatch(ctx, fmt.Sprintf("batch-%d", at), prompts, 32); err != nil {
			return err
		}
	}
	return nil
}

// tally is what all accounts have seen.
func (st *accountStage) tally() (all rig.Tally) {
	for _, p := range st.Accounts {
		t := p.Tally()
		all.Calls, all.Completed, all.Refused, all.Other = all.Calls+t.Calls, all.Completed+t.Completed, all.Refused+t.Refused, all.Other+t.Other
	}
	return all
}

// sum drains jobs, and holds what all accounts have done against what they could.
func (m *Accounts) sum(ctx context.Context, st *accountStage) error {
	if err := st.fill(ctx, m.Jobs); err != nil {
		return err
	}
	err := rig.Until(ctx, m.Timeout, "every job was called", func(context.Context) (bool, error) { return st.tally().Completed >= m.Jobs, nil })
	if err != nil {
		return fmt.Errorf("%w (%+v)", err, st.tally())
	}
	own, all := st.used()
	t := st.tally()
	least, most := slices.Min(own), slices.Max(own)
	_, when := paced(st.Accounts)
	return report(fmt.Sprintf("accounts: %d jobs, %d workers, accounts of %s requests/s, burst %d each", m.Jobs, m.Workers, numbers("%.0f", st.rates), accountBurst), []figure{
		atLeast("used of the sum of all allowances", "%.2f %%", 100*all, 99, "(used - bursts) / (sum of the rates x span)"),
		atMost("  of the one that was used most", "%.2f %%", 100*most, 100, "the same of each account: "+numbers("%.2f", scaled(own, 100))),
		plain("  of the one that was used least", "%.2f %%", 100*least, ""),
		atMost("429s in 10,000 calls", "%.1f", float64(t.Refused)/float64(t.Calls)*10_000, 0, strings.TrimSuffix(fmt.Sprintf("%d of %d calls; %d ended otherwise; %s", t.Refused, t.Calls, t.Other, when), "; ")),
	})
}

// used is the share that was used of each account's allowance, and of all, between the first and the
// last call of all.
func (st *accountStage) used() (own []float64, all float64) {
	var first, last time.Time
	var each [][]sent
	for _, p := range st.Accounts {
		calls := accepted(p.Calls(0), oneRequest)
		each = append(each, calls)
		if len(calls) == 0 {
			continue
		}
		from, to := ends(calls)
		if first.IsZero() || from.Before(first) {
			first = from
		}
		if to.After(last) {
			last = to
		}
	}
	span := last.Sub(first).Seconds()
	did, could := 0.0, 0.0
	for i, calls := range each {
		own = append(own, (float64(len(calls))-accountBurst)/(st.rates[i]*span))
		did, could = did+float64(len(calls))-accountBurst, could+st.rates[i]*span
	}
	return own, did / could
}

// left has the last account fail for a while, and reports what the others do and when it is back.
func (m *Accounts) left(ctx context.Context, st *accountStage, name, fault string) error {
	rate := st.rates[0]
	others, one := st.Accounts[:len(st.Accounts)-1], st.Accounts[len(st.Accounts)-1]
	const warm = 10 * time.Second
	if err := st.fill(ctx, int(1.1*rate*float64(len(st.rates))*(warm+m.Away+m.Back).Seconds())); err != nil {
		return err
	}
	if err := rig.Wait(ctx, warm); err != nil {
		return err
	}
	begin := time.Now()
	if err := one.AddFault(fake.Fault{Kind: fault}); err != nil {
		return err
	}
	if err := rig.Wait(ctx, m.Away); err != nil {
		return err
	}
	one.ClearFaults()
	well := time.Now()
	if err := rig.Wait(ctx, m.Back); err != nil {
		return err
	}
	end := time.Now()
	if err := rig.Wait(ctx, answered); err != nil { // the provider notes a call when it has ended
		return err
	}
	kept, wasted, probes := st.kept(others, begin, end), 0, 0
	for _, c := range one.Calls(0) {
		switch {
		case !c.At.After(begin) || !c.At.Before(well):
		case c.Prompt == rig.PromptDigest("ping"):
			probes++
		default:
			wasted++
		}
	}
	limited, when := paced(st.Accounts)
	figures := []figure{
		atLeast("used of the others' allowances", "%.2f %%", 100*slices.Min(kept), 99, "each: "+numbers("%.2f", scaled(kept, 100))+", from its first failure to the end"),
		st.back(one, "used again after it is well", well, 0.1),
		st.back(one, "its full pace (97 % over 5 s) after it is well", well, 0.97),
		plain("calls of jobs that it failed", "%.0f", float64(wasted), fmt.Sprintf("%d probes in %.0f s", probes, m.Away.Seconds())),
		plain("429s for the pace", "%.0f", float64(limited), strings.TrimPrefix(fmt.Sprintf("%s; of %d calls in all", when, st.tally().Calls), "; ")),
	}
	return report(fmt.Sprintf("accounts: one of three %s for %.0f s, %d workers, %.0f requests/s each", name, m.Away.Seconds(), m.Workers, rate), figures)
}

// kept is the share of its allowance that each account, all of one rate, has used between two moments.
func (st *accountStage) kept(list []*rig.Provider, begin, end time.Time) (shares []float64) {
	for _, p := range list {
		n := 0
		for _, c := range p.Calls(0) {
			if c.Accepted && c.At.After(begin) && c.At.Before(end) {
				n++
			}
		}
		shares = append(shares, float64(n)/(st.rates[0]*end.Sub(begin).Seconds()))
	}
	return shares
}

// paced counts the calls that were refused because a bucket was empty, and says at which account and when.
func paced(list []*rig.Provider) (n int, note string) {
	var words []string
	for i, p := range list {
		calls := p.Calls(0)
		own := 0
		for _, c := range calls {
			if c.Refused != "" {
				own++
			}
		}
		if n += own; own > 0 {
			words = append(words, fmt.Sprintf("account %d: %s", i+1, refusals(calls)))
		}
	}
	return n, strings.Join(words, "; ")
}

// back is when, from a moment on, five seconds begin in which the account is used at this share
// of its rate, probes left out.
func (st *accountStage) back(one *rig.Provider, what string, well time.Time, share float64) figure {
	var at []time.Time
	for _, c := range one.Calls(0) {
		if c.Accepted && c.At.After(well) && c.Prompt != rig.PromptDigest("ping") {
			at = append(at, c.At)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	need := max(1, int(st.rates[len(st.rates)-1]*5*share))
	for i := 0; i+need-1 < len(at); i++ {
		if at[i+need-1].Sub(at[i]) <= 5*time.Second {
			return atMost(what, "%.1f s", at[i].Sub(well).Seconds(), 20, "")
		}
	}
	return figure{name: what, value: "never", bar: "<= 20.0 s"}
}

func numbers(format string, list []float64) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = fmt.Sprintf(format, v)
	}
	return strings.Join(words, ", ")
}

func scaled(list []float64, by float64) []float64 {
	out := make([]float64, len(list))
	for i, v := range list {
		out[i] = v * by
	}
	return out
}
