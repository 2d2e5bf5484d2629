package tasks

import (
	"encoding/json"
	"math"
	"testing"
	"testing/quick"
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
		if got := sonnet.Of(c.u).String(); got != c.want {
			t.Errorf("%+v cost %s, want %s", c.u, got, c.want)
		}
	}
	prices := Prices{sonnet, {Models: "*", Output: Unit}}
	if p, ok := prices.Of("claude-x"); !ok || p != sonnet {
		t.Errorf("claude-x costs %+v", p)
	}
	if p, ok := prices.Of("other/model"); !ok || p.Output != Unit {
		t.Errorf("other/model costs %+v", p)
	}
	if _, ok := prices[:1].Of("gpt"); ok {
		t.Error("gpt has a price")
	}
	if got := sonnet.AtMost(&Request{InputTokens: 1000, MaxTokens: 100}).String(); got != "0.00525" {
		t.Errorf("a request costs %s at most", got)
	}
}
