package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/worker/limit"
)

// several is a configuration of one Anthropic pool with an account at each of these addresses,
// named a, b, c…; more has further lines of it.
func several(more string, urls ...string) string {
	var providers, accounts strings.Builder
	for i, url := range urls {
		name := string(rune('a' + i))
		fmt.Fprintf(&providers, "  %s: {dialect: anthropic, base_url: %q, api_key: the-secret-key-%s}\n", name, url, name)
		fmt.Fprintf(&accounts, "      - {provider: %s}\n", name)
	}
	return "providers:\n" + providers.String() + "pools:\n  claude:\n    models: [\"claude-*\"]\n    accounts:\n" + accounts.String() + `
    limits: {requests_per_minute: 6000, request_burst: 50, concurrency: 32}
    max_attempts: 5
    breaker: {window: 10s, min_calls: 4, failure_ratio: 0.5, probe_interval: 300ms}
` + more
}

// by names the accounts of a job's attempts, in order.
func (r *stage) by(id string) (names []string) {
	r.t.Helper()
	var j struct {
		Upstream struct {
			Account  string
			Attempts []struct{ Account string }
		}
	}
	r.call("GET", "/v1/jobs/"+id, "", &j)
	for _, a := range j.Upstream.Attempts {
		names = append(names, a.Account)
	}
	if n := len(names); n > 0 && names[n-1] != j.Upstream.Account {
		r.t.Errorf("job %s is account %s's, and its attempts are %v", id, j.Upstream.Account, names)
	}
	return names
}

// run has so many jobs answered, and returns how many calls each account made.
func (r *stage) run(n int) map[string]int {
	r.t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = r.submit()
	}
	made := map[string]int{}
	for _, id := range ids {
		if j := r.final(id); j.Status != "succeeded" {
			r.t.Errorf("job %+v", j)
		}
		for _, name := range r.by(id) {
			made[name]++
		}
	}
	return made
}

type accountView struct {
	Name, Provider, State string
	Reason, Egress        *string
	Organization          *string
	SharesOf              *string `json:"shares_allowance_of"`
	Weight                int64
	Allowance             map[string]struct{ Limit int64 }
	Success               *float64 `json:"success_rate"`
	Wait                  *float64 `json:"wait_seconds"`
}

// accounts are how a pool's accounts stand, as GET /v1/pools/{name}/accounts says. It holds no secret.
func (r *stage) accounts(pool string) []accountView {
	r.t.Helper()
	var raw json.RawMessage
	r.call("GET", "/v1/pools/"+pool+"/accounts", "", &raw)
	if strings.Contains(string(raw), "secret") {
		r.t.Errorf("a secret in %s", raw)
	}
	var page struct{ Data []accountView }
	if err := json.Unmarshal(raw, &page); err != nil {
		r.t.Fatalf("%s: %v", raw, err)
	}
	return page.Data
}

func TestOperatorsSeeHowAccountsStand(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, recorded(t, "anthropic/401"))
	yaml := strings.Replace(several("  one: {provider: a, models: [one-*]}\n", a.URL, b.URL), "the-secret-key-a}", `the-secret-key-a, egress: [direct, "http://user:secret@127.0.0.1:9"]}`, 1)
	r := outage(t, strings.Replace(yaml, "{provider: a}", "{provider: a, weight: 2}", 1))
	var list []accountView
	r.until("both are told of", func() bool {
		r.run(2)
		list = r.accounts("claude")
		return len(list) == 2 && list[0].Success != nil && list[1].State == "paused"
	})
	first, second := list[0], list[1]
	if first.Name != "a" || first.Provider != "a" || first.State == "paused" || *first.Success != 1 || first.Allowance["requests"].Limit == 0 || first.Weight != 2 || first.Wait == nil ||
		first.Egress == nil || *first.Egress != "direct" {
		t.Errorf("the account that is used: %+v", first)
	}
	if second.Name != "b" || second.Provider != "b" || second.Reason == nil || *second.Reason == "" || second.Weight != 1 || second.Wait != nil || second.Egress != nil {
		t.Errorf("the account that is refused: %+v", second)
	}
	if list := r.accounts("one"); len(list) != 1 || list[0].Name != "a" || list[0].State != "open" || list[0].Success != nil {
		t.Errorf("a pool of one account: %+v", list)
	}
	var out poolView
	r.call("POST", "/v1/pools/claude/pause", `{"reason":"a look"}`, &out)
	r.until("its pause is that of each account", func() bool {
		list := r.accounts("claude")
		return list[0].State == "paused" && list[0].Reason != nil && *list[0].Reason == "a look" && list[0].Wait == nil
	})
}

// A process that calls nobody knows the way to a provider only where there is no choice.
func TestAWayThatNobodyHereUsesIsNotInvented(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		listed []string
		want   string
	}{
		{nil, ""},
		{[]string{"direct"}, "direct"},
		{[]string{"http://user:secret@proxy.example"}, "http://proxy.example:80"},
		{[]string{"direct", "socks5://proxy.example"}, ""},
	} {
		s := &service{cfg: &config.Config{Providers: []config.Provider{{Name: "p", Egress: c.listed}}}}
		if got := s.way("p"); got != c.want {
			t.Errorf("of %q: %q, want %q", c.listed, got, c.want)
		}
	}
}

func TestAPoolUsesAllOfItsAccounts(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, several("", a.URL, b.URL))
	if made := r.run(12); made["a"] == 0 || made["b"] == 0 || made["a"]+made["b"] != 12 {
		t.Errorf("calls by account: %v, want some each", made)
	}
	if p := r.pool("claude"); p.State != "open" {
		t.Errorf("pool %+v", p)
	}
}

// One account that is refused, out of money, down or limited leaves the work to the others,
// which no job fails by, and the pool is not paused.
func TestAnAccountThatFailsLeavesTheWorkToOthers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"refused": "anthropic/401", "down": "anthropic/529", "spent": "anthropic/400-credit", "limited": "anthropic/429-ordinary",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := recorded(t, answer)
			if name == "limited" {
				said = recorded(t, answer, "retry-after: 17", "retry-after: 900")
			}
			a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, said)
			r := outage(t, several("", a.URL, b.URL))
			r.until("the account has left", func() bool {
				r.run(4)
				p := r.pool("claude")
				if p.State == "paused" {
					t.Fatalf("the pool is paused: %+v", p)
				}
				if name == "limited" {
					state, err := r.s.gates["claude.b"].State(t.Context())
					return err == nil && state.HeldFor > time.Minute
				}
				return p.State == "degraded" && strings.Contains(p.Reason, "1 of its 2 accounts do not take calls: b")
			})
			before, _ := b.seen()
			if made := r.run(6); made["b"] > 0 {
				t.Errorf("calls by account after b has left: %v", made)
			}
			if after, _ := b.seen(); len(after) != len(before) {
				t.Errorf("%d more calls of jobs to an account that has left", len(after)-len(before))
			}
		})
	}
}

// Whatever an account has left for, and until whenever it said, it is asked for at the interval of probes.
func TestAnAccountComesBackByItself(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"down": "anthropic/529", "refused": "anthropic/401", "spent": "anthropic/400-credit", "spent until next month": "anthropic/429-spend",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, recorded(t, answer))
			r := outage(t, several("", a.URL, b.URL))
			r.until("the account has left", func() bool { r.run(4); return strings.Contains(r.pool("claude").Reason, ": b") })
			b.now(recorded(t, "anthropic/text"))
			r.until("it is used again", func() bool { return r.run(2)["b"] > 0 })
		})
	}
}

func TestThePoolIsPausedOnlyWhileAllAccountsAre(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/529")), newWire(t, recorded(t, "anthropic/529"))
	r := outage(t, several("", a.URL, b.URL))
	var ids []string
	for range 12 {
		ids = append(ids, r.submit())
	}
	r.until("the pool is paused", func() bool {
		p := r.pool("claude")
		return p.State == "paused" && p.PausedBy == "breaker" && p.Resume != nil
	})
	b.now(recorded(t, "anthropic/text"))
	for _, id := range ids {
		if j := r.final(id); j.Status != "succeeded" {
			t.Errorf("job %+v, %s", j, j.outcomes())
		}
	}
	if p := r.pool("claude"); p.State == "paused" {
		t.Errorf("pool %+v", p)
	}
}

func TestAnOperatorPausesEveryAccount(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, several("", a.URL, b.URL))
	var out poolView
	r.call("POST", "/v1/pools/claude/pause", `{"reason":"a look"}`, &out)
	r.until("it is paused", func() bool { p := r.pool("claude"); return p.State == "paused" && p.PausedBy == "operator" })
	id := r.submit()
	r.until("its job waits for that", func() bool { w := r.job(id).Waiting; return w != nil && w.For == "paused" })
	first, _ := a.seen()
	second, _ := b.seen()
	if len(first)+len(second) > 0 {
		t.Errorf("%d calls in a pause", len(first)+len(second))
	}
	r.call("POST", "/v1/pools/claude/resume", `{}`, &out)
	if j := r.final(id); j.Status != "succeeded" {
		t.Errorf("job %+v", j)
	}
}

// What an account calls a model concerns its own calls alone, and nobody who asks.
func TestModelsAreNamedAsEachAccountNamesThem(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, recorded(t, "anthropic/text"))
	yaml := strings.Replace(several("", a.URL, b.URL), "{provider: b}", `{provider: b, models: {"claude-sonnet-4-5": "eu.claude-sonnet-4-5"}}`, 1)
	r := outage(t, yaml)
	for _, name := range []string{"a", "b"} {
		r.until(name+" is used", func() bool { return r.run(1)[name] > 0 })
	}
	for w, want := range map[*wire]string{a: "claude-sonnet-4-5", b: "eu.claude-sonnet-4-5"} {
		w.mu.Lock()
		models := slices.Compact(slices.Sorted(slices.Values(w.models)))
		w.mu.Unlock()
		if !slices.Equal(models, []string{want}) {
			t.Errorf("asked %v, want %s", models, want)
		}
	}
}

// Two accounts that name one allowance have one gate, and one that is refused does not stop the other.
func TestAccountsThatShareAnAllowanceHaveOneGate(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/401")), newWire(t, recorded(t, "anthropic/text"))
	yaml := several("", a.URL, b.URL)
	for _, name := range []string{"a", "b"} {
		yaml = strings.Replace(yaml, "{provider: "+name+"}", "{provider: "+name+", allowance: org}", 1)
	}
	r := outage(t, yaml)
	if len(r.s.gates) != 1 || r.s.gates["@org"] == nil {
		t.Fatalf("gates %v", r.s.gates)
	}
	r.run(6)
	if state, err := r.s.gates["@org"].State(t.Context()); err != nil || state.HeldFor > 0 || state.Requests.Limit == 0 {
		t.Errorf("gate %+v, %v", state, err)
	}
	if p := r.pool("claude"); p.State == "paused" {
		t.Errorf("pool %+v", p)
	}
}

// Two accounts whose answers name one organisation share the lower of their allowances, and API and metrics say so.
func TestAccountsOfOneOrganisationAreMerged(t *testing.T) {
	t.Parallel()
	said := recorded(t, "anthropic/text") // it names one
	a, b := newWire(t, said), newWire(t, said)
	yaml := strings.Replace(several("", a.URL, b.URL), "{provider: b}", "{provider: b, limits: {requests_per_minute: 3000}}", 1)
	r := outage(t, yaml)
	var list []accountView
	r.until("they share an allowance", func() bool {
		r.run(2)
		list = r.accounts("claude")
		return list[0].SharesOf != nil
	})
	if *list[0].SharesOf != "b" || list[1].SharesOf != nil || *list[0].Organization != *list[1].Organization || list[0].Allowance["requests"] != list[1].Allowance["requests"] {
		t.Errorf("accounts %+v", list)
	}
	if made := r.run(6); made["a"] == 0 || made["b"] == 0 {
		t.Errorf("calls by account: %v, want some each", made)
	}
	if got := r.gauge("sluice_account_merged"); got != 1 {
		t.Errorf("%v accounts are told to have another's allowance, want a alone", got)
	}
}

// The first account of a pool has the gate that the pool had when it was one, and that an earlier
// release uses beside this one.
func TestTheFirstAccountKeepsThePoolsGate(t *testing.T) {
	t.Parallel()
	a, b := newWire(t, recorded(t, "anthropic/text")), newWire(t, recorded(t, "anthropic/text"))
	r := outage(t, several("", a.URL, b.URL))
	for _, name := range []string{"a", "b"} {
		r.until(name+" is used", func() bool { return r.run(1)[name] > 0 })
	}
	for _, name := range []string{"claude", "claude.b"} {
		if n := r.redis.Client().Exists(t.Context(), limit.Keys("sluice", name)[0]).Val(); n != 1 {
			t.Errorf("the gate %s has no state", name)
		}
	}
}
