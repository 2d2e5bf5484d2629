package config

import (
	"fmt"
	"math"
	"net"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

// Config is the effective configuration: the file, overridden by the
// environment, over the defaults. Load alone makes it; it is not changed after.
//
// The tag key is a setting's name in the file; a field without one is not a
// setting. A slice of structs with a Name is a mapping in the file, in the
// file's order. Settings tagged secret are masked when printed and may be read
// from the file that the environment variable …_FILE names.
type Config struct {
	Listen    string     `key:"listen"`
	OpsListen string     `key:"ops_listen"`
	PublicURL string     `key:"public_url"` // no slash at its end; empty when listen has port 0, which is known only later
	Redis     RedisKeys  `key:"redis"`
	Auth      AuthKeys   `key:"auth"`
	Providers []Provider `key:"providers"`
	Pools     []Pool     `key:"pools"`
	Tenants   []Tenant   `key:"tenants"` // always holds "default"
	Results   Results    `key:"results"`
	DataDir   string     `key:"data_dir"` // empty when there is no home folder and none was given
	Webhooks  Webhooks   `key:"webhooks"`

	// File is the configuration file that was read, or "".
	File string
}

// RedisKeys says which Redis.
type RedisKeys struct {
	URL string `key:"url" secret:"url"` // empty: the embedded one
}

// AuthKeys says whose tokens are accepted.
type AuthKeys struct {
	Issuer      string        `key:"issuer"`
	Audience    string        `key:"audience"`
	MaxLifetime time.Duration `key:"max_lifetime"`
	HMACSecret  string        `key:"hmac_secret" secret:"all"`
	JWKSURL     string        `key:"jwks_url"`
	JWKSFile    string        `key:"jwks_file"`
}

// Provider is an account at an LLM provider.
type Provider struct {
	Name    string
	Dialect string `key:"dialect"` // "anthropic" or "openai"
	BaseURL string `key:"base_url"`
	APIKey  string `key:"api_key" secret:"all"`

	// Fake is set on the built-in fake provider, whose address is known only
	// once it listens: BaseURL and APIKey are empty.
	Fake bool
}

// Pool is one upstream allowance.
type Pool struct {
	Name        string
	Provider    string        `key:"provider"`
	Models      []string      `key:"models"` // globs, as path.Match takes them
	Limits      Limits        `key:"limits"`
	Timeout     time.Duration `key:"timeout"` // of one attempt
	MaxAttempts int           `key:"max_attempts"`
	Breaker     Breaker       `key:"breaker"`
	// FallbackModels answer in place of a job's own model while this pool is
	// paused or when the job's attempts are exhausted, in this order, for jobs
	// that have no list of their own. Empty: none.
	FallbackModels []string `key:"fallback_models"`
	Cache          Cache    `key:"cache"`
	// ShareInFlight has requests of one tenant that are the same, and under way at
	// the same time, share one call upstream.
	ShareInFlight bool `key:"share_in_flight"`

	// FollowProvider is set when no rate of the limits was given: they are a
	// guess then, which the provider's headers may raise as well as lower.
	FollowProvider bool
}

// Limits are a pool's allowance. A token limit of 0 is no limit.
type Limits struct {
	RequestsPerMinute     int64 `key:"requests_per_minute"`
	InputTokensPerMinute  int64 `key:"input_tokens_per_minute"`
	OutputTokensPerMinute int64 `key:"output_tokens_per_minute"`
	RequestBurst          int64 `key:"request_burst"`
	Concurrency           int   `key:"concurrency"`
}

// Cache says how long the answer to a request of temperature 0 serves the same
// request of the same tenant again. 0 is never.
type Cache struct {
	TTL time.Duration `key:"ttl"`
}

// Breaker says when a pool is paused because its provider fails.
type Breaker struct {
	Window        time.Duration `key:"window"`
	MinCalls      int           `key:"min_calls"`
	FailureRatio  float64       `key:"failure_ratio"`
	ProbeInterval time.Duration `key:"probe_interval"`
}

// Tenant is what one tenant may use. 0 is no limit.
type Tenant struct {
	Name             string
	Weight           int64 `key:"weight"`
	SubmitsPerMinute int64 `key:"submits_per_minute"`
	QueuedJobs       int64 `key:"queued_jobs"`
	TokensPerDay     int64 `key:"tokens_per_day"`
}

// Results says how long a finished job is kept and how large its answer may be.
type Results struct {
	TTL      time.Duration `key:"ttl"`
	MaxBytes int64         `key:"max_bytes"`
}

// Webhooks loosens what may be dialled, which is off by default, and denies more.
type Webhooks struct {
	AllowHTTP    bool     `key:"allow_http"`
	AllowPrivate bool     `key:"allow_private"`
	AllowHosts   []string `key:"allow_hosts"`
	DenyNetworks []string `key:"deny_networks"`
}

// FakeProvider is the name of the built-in fake provider.
const FakeProvider = "fake"

// unset marks a limit that nobody gave: it takes the value of the provider's
// dialect, which is not known while it is read.
const unset = math.MinInt32

// Entry-tier limits, where a pool starts before the provider's own headers
// have corrected it.
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

// The providers' own addresses, where a configuration gives none.
func providerURL(dialect string) string {
	if dialect == "openai" {
		return "https://api.openai.com/v1"
	}
	return "https://api.anthropic.com"
}

// defaultPool is a pool of which nothing but its name is given.
func defaultPool() Pool {
	return Pool{
		Limits:      Limits{unset, unset, unset, unset, unset},
		Timeout:     10 * time.Minute,
		MaxAttempts: 5,
		Breaker:     Breaker{Window: 10 * time.Second, MinCalls: 20, FailureRatio: 0.5, ProbeInterval: 5 * time.Second},
	}
}

// poolFor is the default pool of a provider.
func poolFor(p Provider) Pool {
	pool := defaultPool()
	pool.Provider = p.Name
	switch {
	case p.Fake:
		pool.Name, pool.Models = FakeProvider, []string{"*"}
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
		Listen:    "127.0.0.1:8080",
		OpsListen: "127.0.0.1:9090",
		Auth:      AuthKeys{Issuer: "sluice", Audience: "sluice", MaxLifetime: 24 * time.Hour},
		Tenants:   []Tenant{defaultTenant()},
		Results:   Results{TTL: 168 * time.Hour, MaxBytes: 8 << 20},
		DataDir:   userDataDir(e),
	}
}

func defaultTenant() Tenant {
	return Tenant{Name: "default", Weight: 1, SubmitsPerMinute: 600, QueuedJobs: 100_000}
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

// Pool returns the name of the first pool, in the file's order, that serves model.
func (c *Config) Pool(model string) (name string, ok bool) {
	for _, p := range c.Pools {
		for _, glob := range p.Models {
			// Load has checked the globs; "/" in a model's name is an ordinary
			// character here, which path.Match does not see it as.
			if matched, _ := path.Match(flat(glob), flat(model)); matched {
				return p.Name, true
			}
		}
	}
	return "", false
}

// flat takes the special meaning from the slash of names like "openai/gpt-5".
func flat(s string) string { return strings.ReplaceAll(s, "/", "\x00") }

// ProviderOf returns the provider of a pool.
func (c *Config) ProviderOf(pool string) (Provider, bool) {
	for _, p := range c.Pools {
		if p.Name != pool {
			continue
		}
		for _, pr := range c.Providers {
			if pr.Name == p.Provider {
				return pr, true
			}
		}
	}
	return Provider{}, false
}

// UsesFake reports whether a pool is served by the built-in fake provider.
func (c *Config) UsesFake() bool {
	for _, p := range c.Providers {
		if p.Fake {
			return true
		}
	}
	return false
}

// Tenant returns what a tenant may use: its own settings, or those of "default".
func (c *Config) Tenant(name string) Tenant {
	var fallback Tenant
	for _, t := range c.Tenants {
		if t.Name == name {
			return t
		}
		if t.Name == "default" {
			fallback = t
		}
	}
	fallback.Name = name
	return fallback
}

// PublicFor returns the base of the links that are handed out, given the
// address that the API really listens on.
func (c *Config) PublicFor(addr net.Addr) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	return "http://" + addr.String()
}

// named reports whether t is a mapping of names that keeps its order.
func named(t reflect.Type) bool {
	if t.Kind() != reflect.Slice || t.Elem().Kind() != reflect.Struct {
		return false
	}
	_, ok := t.Elem().FieldByName("Name")
	return ok
}

// Fault is one thing wrong with a configuration.
type Fault struct {
	Key   string // the setting's path; "" for the file as a whole
	Text  string // what is wrong; never the value of a secret
	Where string // the line of the file, or the environment variable; "" when nothing was given
}

// String puts the key first.
func (f Fault) String() string {
	s := f.Text
	if f.Key != "" {
		s = f.Key + ": " + s
	}
	if f.Where != "" {
		s += " (" + f.Where + ")"
	}
	return s
}

// Faults are all that is wrong with a configuration, as one error.
type Faults []Fault

func (e Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d fault", len(e))
	if len(e) != 1 {
		b.WriteByte('s')
	}
	for _, f := range e {
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}
