package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks/queue"
)

// Load reads the configuration: the file at path (or where SLUICE_CONFIG
// points, or sluice.yaml of the working folder when it is there), overridden by
// environ, over the defaults. It returns every fault at once, each by its key;
// the configuration may be used only when there is none.
func Load(path string, environ []string) (*Config, Faults) {
	e := NewEnvironment(environ)
	r := &reader{}
	file := cmp.Or(path, e["SLUICE_CONFIG"])
	root, found := r.file(cmp.Or(file, "sluice.yaml"), file != "")
	c := r.config(root, e)
	if found {
		c.File = cmp.Or(file, "sluice.yaml")
	}
	return c, r.faults
}

// config makes a configuration of what a file holds.
func (r *reader) config(root *node, e Environment) *Config {
	c := defaults(e)
	r.overlay(root, e)
	r.decode(root, reflect.ValueOf(c).Elem(), "")
	c.complete(r, root, e)
	(&validator{reader: r, root: root, known: len(r.faults)}).config(c)
	return c
}

// complete fills in what depends on more than one setting.
func (c *Config) complete(r *reader, root *node, e Environment) {
	if c.PublicURL == "" {
		c.PublicURL = LocalURL(c.Listen)
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")

	for i := range c.Providers {
		if p := &c.Providers[i]; p.BaseURL == "" && (p.Dialect == "anthropic" || p.Dialect == "openai") {
			p.BaseURL = providerURL(p.Dialect)
		}
	}
	configured := len(c.Providers) > 0
	if !configured {
		c.Providers = wellKnown(r, e)
	}
	if len(c.Providers) == 0 || c.wantsFake() {
		c.Providers = append(c.Providers, Provider{Name: FakeProvider, Dialect: "anthropic", Fake: true})
	}
	if given := root.child("pools"); given == nil || given.kind == null {
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
	for i := range c.Pools {
		p := &c.Pools[i]
		dialect := ""
		if provider, ok := c.ProviderOf(p.Name); ok {
			dialect = provider.Dialect
		}
		p.FollowProvider = p.Limits.fill(entryLimits(dialect))
	}
}

// fill puts what nobody gave. guessed reports whether none of the rates was given.
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
		if p.Name == FakeProvider {
			return false
		}
	}
	for _, p := range c.Pools {
		if p.Provider == FakeProvider {
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
		out = append(out, Provider{Name: k.name, Dialect: k.name, BaseURL: base, APIKey: key})
	}
	return out
}

// LocalURL is what reaches listen from this machine, or "" when the port is
// not known yet.
func LocalURL(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// validator looks for values that cannot be meant. Where reading has found a
// fault already it says nothing more.
type validator struct {
	*reader
	root  *node
	known int // the number of faults that reading found
}

func (v *validator) bad(key, format string, args ...any) {
	for _, f := range v.faults[:v.known] {
		if f.Key == key || strings.HasPrefix(key, f.Key+".") || strings.HasPrefix(f.Key, key+"[") {
			return
		}
	}
	v.fault(key, v.whereIs(key), format, args...)
}

// whereIs finds where a setting, or the nearest mapping around it, was given.
func (v *validator) whereIs(key string) string {
	n, where := v.root, ""
	for name := range strings.SplitSeq(key, ".") {
		name, _, _ = strings.Cut(name, "[")
		if n = n.child(name); n == nil {
			break
		}
		where = n.where
	}
	return where
}

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func (v *validator) config(c *Config) {
	v.address("listen", c.Listen)
	v.address("ops_listen", c.OpsListen)
	if c.Listen == c.OpsListen && !strings.HasSuffix(c.Listen, ":0") {
		v.bad("ops_listen", "has to differ from listen")
	}
	if c.PublicURL != "" {
		if err := CheckURL(c.PublicURL); err != nil {
			v.bad("public_url", "%v", err)
		}
	}
	if c.Redis.URL == "" {
		if c.DataDir == "" {
			v.bad("data_dir", "needed for the embedded Redis, since there is no home folder; or give redis.url")
		}
	} else if _, err := ParseRedis(c.Redis.URL); err != nil {
		v.bad("redis.url", "%v", err)
	}
	v.auth(c.Auth)
	v.providers(c)
	v.pools(c)
	v.tenants(c)
	v.positive("results.ttl", c.Results.TTL)
	v.atLeast("results.max_bytes", c.Results.MaxBytes, 1)
	for i, h := range c.Webhooks.AllowHosts {
		if h == "" || strings.ContainsAny(h, "/@ *?#") {
			v.bad(fmt.Sprintf("webhooks.allow_hosts[%d]", i), "%q is neither a host name nor an IP address", h)
		}
	}
	for i, n := range c.Webhooks.DenyNetworks {
		if _, err := netip.ParsePrefix(n); err != nil {
			v.bad(fmt.Sprintf("webhooks.deny_networks[%d]", i), "%q is not a prefix, as in 198.51.100.0/24", n)
		}
	}
}

func (v *validator) address(key, s string) {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		v.bad(key, "%q is not host:port, as in 127.0.0.1:8080", s)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		v.bad(key, "%q is not a port number (0 to 65535)", port)
	} else if strconv.FormatUint(n, 10) != port {
		v.bad(key, "write the port as %d", n)
	}
}

func (v *validator) auth(a AuthKeys) {
	if a.Issuer == "" {
		v.bad("auth.issuer", "must not be empty")
	}
	if a.Audience == "" {
		v.bad("auth.audience", "must not be empty")
	}
	v.positive("auth.max_lifetime", a.MaxLifetime)
	if a.HMACSecret != "" && len(a.HMACSecret) < minSecret {
		v.bad("auth.hmac_secret", "has %d bytes; HS256 needs at least %d (RFC 7518 section 3.2)", len(a.HMACSecret), minSecret)
	}
	if a.JWKSURL != "" && a.JWKSFile != "" {
		v.bad("auth.jwks_file", "only one of jwks_url and jwks_file can be given")
	}
	if a.JWKSURL != "" {
		if err := CheckURL(a.JWKSURL); err != nil {
			v.bad("auth.jwks_url", "%v", err)
		} else if strings.HasPrefix(a.JWKSURL, "http:") && !loopbackURL(a.JWKSURL) {
			v.bad("auth.jwks_url", "has to be https, unless it is on this machine")
		}
	}
}

func (v *validator) providers(c *Config) {
	for _, p := range c.Providers {
		if p.Fake {
			continue
		}
		key := "providers." + p.Name
		v.name(key, p.Name)
		if p.Dialect != "anthropic" && p.Dialect != "openai" {
			v.bad(key+".dialect", "%q is neither anthropic nor openai", p.Dialect)
			if p.BaseURL == "" {
				continue
			}
		}
		if err := CheckURL(p.BaseURL); err != nil {
			v.bad(key+".base_url", "%v", err)
			continue
		}
		if p.APIKey == "" && !loopbackURL(p.BaseURL) {
			v.bad(key+".api_key", "needed; may also come from %s or %s_FILE", variable(key+".api_key"), variable(key+".api_key"))
		}
		if strings.ContainsFunc(p.APIKey, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			v.bad(key+".api_key", "holds a space or another character that a header cannot carry")
		}
	}
}

// variable is the environment variable of a setting.
func variable(key string) string {
	return "SLUICE_" + strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(key))
}

func (v *validator) pools(c *Config) {
	if len(c.Pools) == 0 {
		v.bad("pools", "there is no pool, so no job could be served")
	}
	for _, p := range c.Pools {
		key := "pools." + p.Name
		if p.Name == queue.Deliveries {
			v.bad(key, "the name is taken by the queue of webhooks")
		}
		v.name(key, p.Name)
		if _, ok := c.ProviderOf(p.Name); !ok {
			switch p.Provider {
			case "":
				v.bad(key+".provider", "needed")
			case "anthropic", "openai":
				v.bad(key+".provider", "there is no provider %q; configure providers.%s or set %s_API_KEY", p.Provider, p.Provider, strings.ToUpper(p.Provider))
			default:
				v.bad(key+".provider", "there is no provider %q", p.Provider)
			}
		}
		if len(p.Models) == 0 {
			v.bad(key+".models", "needed: the models that this pool serves, as in [\"claude-*\"]")
		}
		for i, glob := range p.Models {
			if _, err := path.Match(glob, ""); err != nil || glob == "" {
				v.bad(fmt.Sprintf("%s.models[%d]", key, i), "%q is not a pattern (*, ? and [a-z] are)", glob)
			}
		}
		for i, model := range p.FallbackModels {
			if _, ok := c.Pool(model); !ok {
				v.bad(fmt.Sprintf("%s.fallback_models[%d]", key, i), "no pool serves the model %q", model)
			}
		}
		v.atLeast(key+".limits.requests_per_minute", p.Limits.RequestsPerMinute, 1)
		v.atLeast(key+".limits.input_tokens_per_minute", p.Limits.InputTokensPerMinute, 0)
		v.atLeast(key+".limits.output_tokens_per_minute", p.Limits.OutputTokensPerMinute, 0)
		v.within(key+".limits.request_burst", p.Limits.RequestBurst, 1, math.MaxInt32)
		v.within(key+".limits.concurrency", int64(p.Limits.Concurrency), 1, 10_000)
		v.positive(key+".timeout", p.Timeout)
		if p.Cache.TTL < 0 {
			v.bad(key+".cache.ttl", "is %v; it has to be 0s, which is off, or longer", p.Cache.TTL)
		}
		v.atLeast(key+".max_attempts", int64(p.MaxAttempts), 1)
		v.positive(key+".breaker.window", p.Breaker.Window)
		v.atLeast(key+".breaker.min_calls", int64(p.Breaker.MinCalls), 1)
		if p.Breaker.FailureRatio <= 0 || p.Breaker.FailureRatio > 1 {
			v.bad(key+".breaker.failure_ratio", "is %v; it has to be above 0 and at most 1", p.Breaker.FailureRatio)
		}
		v.positive(key+".breaker.probe_interval", p.Breaker.ProbeInterval)
	}
}

func (v *validator) tenants(c *Config) {
	for _, t := range c.Tenants {
		key := "tenants." + t.Name
		if !auth.ValidTenant(t.Name) {
			v.bad(key, "is not a tenant's name: letters, digits, _ and -, at most 64")
		}
		v.atLeast(key+".weight", t.Weight, 1)
		v.atLeast(key+".submits_per_minute", t.SubmitsPerMinute, 0)
		v.atLeast(key+".queued_jobs", t.QueuedJobs, 0)
		v.atLeast(key+".tokens_per_day", t.TokensPerDay, 0)
	}
}

func (v *validator) name(key, name string) {
	if !nameRule.MatchString(name) {
		v.bad(key, "%q is not a name: small letters, digits, _ and -, the first no sign", name)
	}
}

func (v *validator) atLeast(key string, n, least int64) {
	if n < least {
		v.bad(key, "is %d; it has to be at least %d", n, least)
	}
}

func (v *validator) within(key string, n, least, most int64) {
	if n < least || n > most {
		v.bad(key, "is %d; it has to be %d to %d", n, least, most)
	}
}

func (v *validator) positive(key string, d time.Duration) {
	if d <= 0 {
		v.bad(key, "is %s; it has to be above zero", d)
	}
}

// CheckURL says what keeps s from being the address of a web server.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("has to be an address like https://host or http://host:port")
	case u.User != nil:
		return errors.New("must not hold a user or a password")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("must not have a query or a fragment")
	}
	return nil
}

// loopbackURL reports whether s is a web address on this machine.
func loopbackURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}
