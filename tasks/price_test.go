package tasks

import (
	"encoding/json"
	"math"
	"testing"
	"testing/quick"
	"time"
)

func TestAnAmountIsReadAndToldDigitByDigit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0": "0", "3": "3", "3.00": "3", "0.30": "0.3", "0.000000001": "0.000000001", "15.075": "15.075", "007": "7", "1000000000": "1000000000",
		"": "", ".5": "", "5.": "", "-1": "", "1e3": "", "1_000": "", " 1": "", "0.0000000001": "", "1000000001": "", "99999999999999999999": "", "+1": "", ".": "", "1.2.3": "",
	} {
		m, err := ParseMoney(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q is read as %s", in, m)
			}
			continue
		}
		if err != nil || m.String() != want {
			t.Errorf("%q is %s, %v; want %s", in, m, err, want)
		}
	}
	if err := quick.Check(func(n uint64) bool {
		m := Money(n % uint64(1e18))
		back, err := ParseMoney(m.String())
		return err == nil && back == m && json.Valid([]byte((-m).String()))
	}, nil); err != nil {
		t.Error(err)
	}
}

func TestWhatTokensCost(t *testing.T) {
	t.Parallel()
	sonnet := Price{Models: "claude-*", Input: 3 * Unit, Output: 15 * Unit, CacheRead: 300_000_000, CacheWrite: 3_750_000_000}
	for _, c := range []struct {
		u    Usage
		want string
	}{
		{Usage{}, "0"},
		{Usage{InputTokens: 1}, "0.000003"},
		{Usage{InputTokens: 25, OutputTokens: 15, CacheReadInputTokens: 100, CacheCreationInputTokens: 7}, "0.00035625"},
		{Usage{InputTokens: -5}, "0"},
		{Usage{OutputTokens: 1_000_000}, "15"},
		{Usage{InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64}, "9223372036.854775807"},
	} {
		if got := sonnet.Of(c.u, Served{}).String(); got != c.want {
			t.Errorf("%+v cost %s, want %s", c.u, got, c.want)
		}
	}
	if got := sonnet.AtMost(&Request{InputTokens: 1000, MaxTokens: 100}).String(); got != "0.00525" {
		t.Errorf("a request costs %s at most", got)
	}
}

// A price is the first whose glob matches and that holds when the call begins, and the
// tier that the answer names multiplies it.
func TestThePriceOfACall(t *testing.T) {
	t.Parallel()
	day := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	change := day("2027-01-01T00:00:00Z")
	prices := Prices{
		{Models: "claude-*", Until: change, Input: 3 * Unit, CacheWrite: 4 * Unit, CacheWrite1h: 6 * Unit, Batch: Unit / 2, Flex: Unit / 4, Priority: 2 * Unit},
		{Models: "claude-*", From: change, Input: 2 * Unit, CacheWrite: 5 * Unit},
		{Models: "gpt-*", From: change, Input: Unit},
		{Models: "*", Input: 9 * Unit},
	}
	input, writes := Usage{InputTokens: 1_000_000}, Usage{CacheCreationInputTokens: 1_000_000}
	for _, c := range []struct {
		model, at string
		u         Usage
		s         Served
		want      string
	}{
		{"claude-x", "2026-12-31T23:59:59Z", input, Served{}, "3"},
		{"claude-x", "2027-01-01T00:59:59+01:00", input, Served{}, "3"},
		{"claude-x", "2027-01-01T00:00:00Z", input, Served{}, "2"},
		{"gpt-5", "2026-12-31T23:59:59Z", input, Served{}, "9"}, // it has none of its own before
		{"gpt-5", "2027-06-01T00:00:00Z", input, Served{}, "1"},
		{"other/model", "2027-06-01T00:00:00Z", input, Served{}, "9"},
		{"claude-x", "2026-06-01T00:00:00Z", input, Served{Tier: TierBatch}, "1.5"},
		{"claude-x", "2026-06-01T00:00:00Z", input, Served{Tier: TierFlex}, "0.75"},
		{"claude-x", "2026-06-01T00:00:00Z", input, Served{Tier: TierPriority}, "6"},
		{"claude-x", "2026-06-01T00:00:00Z", input, Served{Tier: "standard"}, "3"},
		{"claude-x", "2027-06-01T00:00:00Z", input, Served{Tier: TierBatch}, "2"}, // no factor is said
		{"claude-x", "2026-06-01T00:00:00Z", Usage{InputTokens: 1}, Served{Tier: TierFlex}, "0.00000075"},
		{"claude-x", "2026-06-01T00:00:00Z", writes, Served{Hour: 250_000}, "4.5"},
		{"claude-x", "2026-06-01T00:00:00Z", writes, Served{Hour: 2_000_000}, "6"},
		{"claude-x", "2027-06-01T00:00:00Z", writes, Served{Hour: 250_000}, "5"}, // as any write
	} {
		p, ok := prices.Of(c.model, day(c.at))
		if got := p.Of(c.u, c.s).String(); !ok || got != c.want {
			t.Errorf("%s of %s, %+v served %+v, costs %s; want %s", c.model, c.at, c.u, c.s, got, c.want)
		}
	}
	if _, ok := prices[:3].Of("gpt-5", change.Add(-1)); ok {
		t.Error("gpt-5 has a price before its first day")
	}
	for body, want := range map[string]string{`{}`: "6", `{"service_tier":"auto"}`: "12"} {
		if got := prices[0].AtMost(&Request{Body: []byte(body), InputTokens: 1_000_000}).String(); got != want {
			t.Errorf("%s costs %s at most, want %s", body, got, want)
		}
	}
	dear := Price{Input: Unit, Flex: 3 * Unit, Priority: 2 * Unit}
	if got := dear.AtMost(&Request{Body: []byte(`{"service_tier":"flex"}`), InputTokens: 1_000_000}); got != 3*Unit {
		t.Errorf("where flex is dearest, a request costs %s at most, want 3", got)
	}
}
