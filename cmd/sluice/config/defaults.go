package config

import (
	"cmp"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"strconv"
)

// The names of the built-in fake provider, in Anthropic's form and in OpenAI's.
const (
	fakeProvider = "fake"
	fakeOpenAI   = "fake-openai"
)

// unset marks a limit that nobody gave. It becomes the entry tier of the
// provider's dialect, which is not known while limits are read.
const unset = math.MinInt32

// entryLimits are those of the entry tier, where a pool starts before the
// provider's own headers correct it.
//
// Anthropic: tier Start, for Opus, Sonnet and Haiku 4.5
// (platform.claude.com/docs/en/api/rate-limits). OpenAI publishes one limit of
// tokens for both ways; 30,000 is tier 1 of the GPT-4o and GPT-4.1 class, the
// lowest of the chat models (developers.openai.com/api/docs/guides/rate-limits).
// Half for each way keeps their sum within it.
func entryLimits(dialect string) Limits {
	if dialect == "openai" {
		return Limits{RequestsPerMinute: 500, InputTokensPerMinute: 15_000, OutputTokensPerMinute: 15_000, RequestBurst: 10, Concurrency: 64}
	}
	return Limits{RequestsPerMinute: 1000, InputTokensPerMinute: 2_000_000, OutputTokensPerMinute: 400_000, RequestBurst: 10, Concurrency: 64}
}

// providerURL is the provider's own address, where a configuration gives none.
func providerURL(dialect string) string {
	if dialect == "openai" {
		return "https://api.openai.com/v1"
	}
	return "https://api.anthropic.com"
}

// defaultProvider is a provider before any of its settings is read.
func defaultProvider() Provider { return Provider{Stream: true, StreamOptions: true} }

// tokenLimit is the dialect's own name of a limit of output tokens.
func tokenLimit(dialect string) string {
	if dialect == "openai" {
		return "max_completion_tokens"
	}
	return "max_tokens"
}

// defaultPool is a pool before any of its settings is read.
func defaultPool() Pool {
	return Pool{
		Limits:      Limits{unset, unset, unset, unset, unset},
		Timeout:     10 * time.Minute,
		MaxAttempts: 5,
		Breaker:     Breaker{Window: 10 * time.Second, MinCalls: 20, FailureRatio: 0.5, ProbeInterval: 5 * time.Second},
		Lanes:       Lanes{High: 70, Normal: 25, Low: 5},
		Batches:     Batches{MinRoom: time.Hour, MaxJobs: 2000, MaxBytes: 32 << 20, MaxAge: time.Minute, PollInterval: time.Minute, SpillBefore: 30 * time.Minute},
	}
}

// defaultAccount is an account before any of its settings is read.
func defaultAccount() Account {
	return Account{Weight: 1, Limits: Limits{unset, unset, unset, unset, unset}}
}

// defaultPrice is a price before any of its settings is read: what providers ask for the
// tiers that they sell at half price, and for others the price itself.
func defaultPrice() Price {
	return Price{Batch: tasks.Unit / 2, Flex: tasks.Unit / 2, Priority: tasks.Unit}
}

// poolFor is the pool of a provider in a configuration that has no pools.
func poolFor(p Provider) Pool {
	pool := defaultPool()
	pool.Provider = p.Name
	switch {
	case p.Fake && p.Dialect == "openai":
		pool.Name, pool.Models = p.Name, []string{"gpt-*", "chatgpt-*", "o[0-9]*", "text-embedding-*", "*"}
	case p.Fake:
		pool.Name, pool.Models = p.Name, []string{"claude-*", "*"}
	case p.Dialect == "openai":
		pool.Name, pool.Models = "gpt", []string{"gpt-*", "o*"}
	default:
		pool.Name, pool.Models = "claude", []string{"claude-*"}
	}
	return pool
}

// defaults is the configuration before anything is read.
func defaults(e Environment) *Config {
	return &Config{
		Listen:     "127.0.0.1:8080",
		OpsListen:  "127.0.0.1:9090",
		MaxWait:    50 * time.Second,
		DrainDelay: 5 * time.Second,
		Caps: Caps{
			Connections: 10_000, Requests: 10_000, Streams: 10_000, Uploads: 256, BodyBytes: 96 << 20, FailedTokens: 120,
			Tenant: TenantCaps{Requests: 1500, Streams: 1000, Uploads: 32},
		},
		Redis:   Redis{Prefix: tasks.DefaultPrefix, MaxConnections: 200},
		Auth:    Auth{Issuer: "sluice", Audience: "sluice", MaxLifetime: 24 * time.Hour, Users: UsersShared},
		Tenants: []Tenant{defaultTenant()},
		Results: Results{TTL: 168 * time.Hour, MaxBytes: 8 << 20},
		Abuse:   Abuse{Mode: "shadow", Window: time.Minute, Learn: 168 * time.Hour},
		Bodies:  Bodies{Above: 16 << 10},
		DataDir: userDataDir(e),
	}
}

// defaultTenant is what a tenant may use whom nobody named.
func defaultTenant() Tenant {
	return Tenant{Name: "default", Weight: 1, SubmitsPerMinute: 600, ResendsPerMinute: 600, QueuedJobs: 100_000, HighPriority: true}
}

// userDataDir follows the XDG base directory specification, also on macOS.
func userDataDir(e Environment) string {
	if dir := e["XDG_DATA_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "sluice")
	}
	if home := e["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "sluice")
	}
	return ""
}

// complete fills in what depends on more than one setting.
func (c *Config) complete(r *reader, root *node, e Environment) {
	if c.PublicURL == "" {
		c.PublicURL = LocalURL(c.Listen)
	}
	c.PublicURL = strings.TrimRight(asBrowsers(c.PublicURL), "/")
	for i, origin := range c.CORS.AllowOrigins {
		c.CORS.AllowOrigins[i] = asBrowsers(origin)
	}

	if b := &c.Bodies; b.AccessKey == "" && b.SecretKey == "" && strings.HasPrefix(b.URL, "s3:") {
		b.AccessKey, b.SecretKey, b.SessionToken = e["AWS_ACCESS_KEY_ID"], e["AWS_SECRET_ACCESS_KEY"], cmp.Or(b.SessionToken, e["AWS_SESSION_TOKEN"])
	}

	c.completeProviders(r, e)
	if given := root.child("pools"); given == nil || given.kind == null {
		c.defaultPools(r)
	}
	for i := range c.Pools {
		p := &c.Pools[i]
		dialect := ""
		if provider, ok := c.ProviderOf(p.Name); ok {
			dialect = provider.Dialect
		}
		p.FollowProvider = p.Limits.fill(entryLimits(dialect))
		for j := range p.Accounts {
			a := &p.Accounts[j]
			a.ID = cmp.Or(a.ID, a.Provider)
			a.FollowProvider = a.Limits.fill(p.Limits) && p.FollowProvider
		}
	}
}

// completeProviders finds the providers when none are named, and their addresses.
func (c *Config) completeProviders(r *reader, e Environment) {
	if len(c.Providers) == 0 {
		c.Providers = wellKnown(r, e)
	}
	for i := range c.Providers {
		p := &c.Providers[i]
		if p.BaseURL == "" && (p.Dialect == "anthropic" || p.Dialect == "openai") {
			p.BaseURL = providerURL(p.Dialect)
		}
		p.TokenLimit = cmp.Or(p.TokenLimit, tokenLimit(p.Dialect))
	}
	none := len(c.Providers) == 0
	if none || c.wantsFake() {
		p := defaultProvider()
		p.Name, p.Dialect, p.Fake = fakeProvider, "anthropic", true
		c.Providers = append(c.Providers, p)
	}
	if none { // every SDK has somebody who answers it
		p := defaultProvider()
		p.Name, p.Dialect, p.Fake = fakeOpenAI, "openai", true
		c.Providers = append(c.Providers, p)
	}
}

// defaultPools makes a pool for each provider, where the configuration has no pools.
func (c *Config) defaultPools(r *reader) {
	seen := map[string]bool{}
	for _, p := range c.Providers {
		pool := poolFor(p)
		if seen[pool.Name] {
			r.fault("pools", "", "needed, since there is more than one provider of the dialect %s", p.Dialect)
			continue
		}
		seen[pool.Name] = true
		c.Pools = append(c.Pools, pool)
	}
}

// fill sets the limits that nobody gave; guessed reports whether that is all rates.
func (l *Limits) fill(from Limits) (guessed bool) {
	guessed = l.RequestsPerMinute == unset && l.InputTokensPerMinute == unset && l.OutputTokensPerMinute == unset
	fill(&l.RequestsPerMinute, from.RequestsPerMinute)
	fill(&l.InputTokensPerMinute, from.InputTokensPerMinute)
	fill(&l.OutputTokensPerMinute, from.OutputTokensPerMinute)
	fill(&l.RequestBurst, from.RequestBurst)
	fill(&l.Concurrency, from.Concurrency)
	return guessed
}

func fill[T int | int64](to *T, from T) {
	if *to == unset {
		*to = from
	}
}

// wantsFake reports whether a pool names the built-in fake provider without
// there being a configured one of that name.
func (c *Config) wantsFake() bool {
	for _, p := range c.Providers {
		if p.Name == fakeProvider {
			return false
		}
	}
	for _, p := range c.Pools {
		if slices.ContainsFunc(c.AccountsOf(p), func(a Account) bool { return a.Provider == fakeProvider }) {
			return true
		}
	}
	return false
}

// wellKnown makes providers of the variables that the providers' own SDKs read.
// One without a key counts only when its address is this machine: a base URL
// alone is often there for another program.
func wellKnown(r *reader, e Environment) []Provider {
	var out []Provider
	for _, k := range []struct{ name, variable string }{{"anthropic", "ANTHROPIC"}, {"openai", "OPENAI"}} {
		key, file := e[k.variable+"_API_KEY"], e[k.variable+"_API_KEY_FILE"]
		if file != "" {
			if key != "" {
				r.fault(k.variable+"_API_KEY", "environment", "given twice: also as %s_API_KEY_FILE", k.variable)
				continue
			}
			var err error
			if key, err = ReadSecret(file); err != nil {
				r.fault(k.variable+"_API_KEY_FILE", "environment", "%v", err)
				continue
			}
		}
		base := e[k.variable+"_BASE_URL"]
		if key == "" && !loopbackURL(base) {
			continue
		}
		if base == "" {
			base = providerURL(k.name)
		} else if err := CheckURL(base); err != nil {
			r.fault(k.variable+"_BASE_URL", "environment", "%v", err)
		}
		p := defaultProvider()
		p.Name, p.Dialect, p.BaseURL, p.APIKey = k.name, k.name, base, key
		out = append(out, p)
	}
	return out
}

// LocalURL is the http address at which this machine reaches a listener on
// host:port, or "" when listen is not that or has port 0, which is known only
// later.
func LocalURL(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// asBrowsers writes an address as browsers do, which tell by the letter where a page
// comes from: the host in small letters, and no port that goes without saying. What is no
// address is left as it is.
func asBrowsers(s string) string {
	u, err := url.Parse(s)
	if err != nil || CheckURL(s) != nil {
		return s
	}
	if u.Host = strings.ToLower(u.Host); u.Port() == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}
	return u.String()
}
