package config

import (
	"strings"
	"testing"
)

const twoProviders = `
providers:
  one: {dialect: anthropic, api_key: k1}
  two: {dialect: anthropic, api_key: k2}
  same: {dialect: anthropic, api_key: k1}
  third: {dialect: anthropic, api_key: k4}
  other: {dialect: openai, api_key: k3}
pools:
  claude:
    models: ["claude-*"]
    limits: {requests_per_minute: 600, request_burst: 5}
    accounts: `

func TestAccountsAreRead(t *testing.T) {
	c := mustLoad(t, twoProviders+`[{provider: one, weight: 2}, {provider: two, name: eu, limits: {requests_per_minute: 60}, models: {"claude-x": "eu.claude-x"}}]`)
	p := c.Pools[0]
	a, b := p.Accounts[0], p.Accounts[1]
	if a.ID != "one" || a.Weight != 2 || a.Limits != p.Limits || a.FollowProvider || b.ID != "eu" || b.Weight != 1 || b.Models["claude-x"] != "eu.claude-x" {
		t.Errorf("accounts %+v", p.Accounts)
	}
	if b.Limits.RequestsPerMinute != 60 || b.Limits.RequestBurst != 5 || b.Limits.Concurrency != 64 {
		t.Errorf("limits of the second %+v", b.Limits)
	}
	if all := c.Allowed(p); all.RequestsPerMinute != 660 || all.RequestBurst != 10 || all.Concurrency != 128 || all.InputTokensPerMinute != 2*p.Limits.InputTokensPerMinute {
		t.Errorf("together %+v", all)
	}
	if p.GateOf(a) != "claude" || p.GateOf(b) != "claude.eu" {
		t.Errorf("gates %s and %s", p.GateOf(a), p.GateOf(b))
	}
	if provider, ok := c.ProviderOf("claude"); !ok || provider.Name != "one" {
		t.Errorf("provider %+v", provider)
	}
	// What is printed is read again, and is the same.
	var b1, b2 strings.Builder
	if err := c.Print(&b1); err != nil {
		t.Fatal(err)
	}
	text := b1.String()
	for _, key := range []string{"k1", "k2", "k3", "k4", "k5"} {
		text = strings.Replace(text, mask, key, 1)
	}
	if err := mustLoad(t, text).Print(&b2); err != nil || b2.String() != b1.String() {
		t.Errorf("%v, printed\n%s\nand then\n%s", err, &b1, &b2)
	}
	if !strings.Contains(b1.String(), "eu.claude-x") || strings.Contains(b1.String(), "k2") {
		t.Errorf("printed\n%s", b1.String())
	}
}

func TestAnAllowanceIsCountedOnce(t *testing.T) {
	c := mustLoad(t, twoProviders+`[{provider: one, allowance: org}, {provider: two, allowance: org}, {provider: third, limits: {input_tokens_per_minute: 0}, allowance: rest}]`)
	p := c.Pools[0]
	if all := c.Allowed(p); all.RequestsPerMinute != 1200 || all.InputTokensPerMinute != 0 {
		t.Errorf("together %+v", all)
	}
	if p.GateOf(p.Accounts[0]) != "@org" || p.GateOf(p.Accounts[1]) != "@org" || p.GateOf(p.Accounts[2]) != "@rest" {
		t.Error("accounts of one allowance have one gate")
	}
}

func TestFaultsOfAccounts(t *testing.T) {
	for text, want := range map[string]string{
		`[{provider: one}, {provider: other}]`:                                                     "accounts[1].provider: speaks openai",
		`[{provider: one}, {provider: nobody}]`:                                                    `accounts[1].provider: there is no provider "nobody"`,
		`[{weight: 1}]`:                                                                            "accounts[0].provider: needed",
		`[{provider: one}, {provider: two, name: one}]`:                                            "accounts[1].name: another account",
		`[{provider: one, name: "No Name"}]`:                                                       "accounts[0].name:",
		`[{provider: one, weight: 0}]`:                                                             "accounts[0].weight:",
		`[{provider: one, limits: {requests_per_minute: 0}}]`:                                      "accounts[0].limits.requests_per_minute:",
		`[{provider: one}, {provider: same}]`:                                                      "accounts[1].provider: has the address and key of account",
		`[{provider: one}, {provider: one, name: again}]`:                                          "accounts[1].provider: has the address and key of account",
		`[{provider: one, allowance: a}, {provider: two, allowance: a, limits: {concurrency: 3}}]`: "accounts[1].limits: are others than those of account",
		`[{provider: one, allowance: "a b"}]`:                                                      "accounts[0].allowance:",
		`[{provider: one, models: {"claude-x": ""}}]`:                                              "accounts[0].models.claude-x:",
		`[{provider: one, egress: []}]`:                                                            "accounts[0].egress: unknown key",
		`[{provider: one}]` + "\n    provider: two":                                                "claude.provider: a pool has a provider or accounts",
	} {
		_, faults := load(t, twoProviders+text)
		if len(faults) != 1 || !strings.Contains(faults.Error(), want) {
			t.Errorf("%s: %v, want %q", text, faults, want)
		}
	}
}
