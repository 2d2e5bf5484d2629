package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/queue"
)

// validator finds values that nobody can mean. It adds nothing about a setting
// that could not be read.
type validator struct {
	*reader
	root  *node
	known int // the number of faults that reading found

	allowances map[string]Account // by name, the last account that gives it
}

// bad notes a fault of a setting, unless reading it found one.
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
		name, index, listed := strings.Cut(name, "[")
		if n = n.child(name); n == nil {
			break
		}
		where = n.where
		if i, err := strconv.Atoi(strings.TrimSuffix(index, "]")); listed && err == nil && i < len(n.items) {
			n = n.items[i]
			where = n.where
		}
	}
	return where
}

var (
	nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	// A prefix stands before a hash tag in keys, and in patterns of an ACL.
	prefixRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
)

func (v *validator) config(c *Config) {
	v.address("listen", c.Listen)
	v.address("ops_listen", c.OpsListen)
	if c.Listen == c.OpsListen && !strings.HasSuffix(c.Listen, ":0") {
		v.bad("ops_listen", "has to differ from listen")
	}
	if c.PublicURL != "" {
		if err := CheckURL(c.PublicURL); err != nil {
			v.bad("public_url", "%v", err)
		} else if u, err := url.Parse(c.PublicURL); err == nil && !publicPath(u.EscapedPath()) {
			v.bad("public_url", "its path may hold letters, digits and . _ ~ - between slashes, and must not begin like a path of Sluice's own, such as /v1, /console, /monitoring or /docs")
		}
	}
	v.doors(c)
	if w := c.MaxWait; w < time.Second || w > time.Minute || w%time.Second != 0 {
		v.bad("max_wait", "is %s; it has to be whole seconds from 1s to 60s", w)
	}
	if d := c.DrainDelay; d < 0 || d > 5*time.Minute {
		v.bad("drain_delay", "is %s; it has to be from 0 to 5m", d)
	}
	v.redis(c)
	v.auth(c.Auth)
	v.providers(c)
	if len(c.Pools) == 0 {
		v.bad("pools", "there is no pool, so no job could be served")
	}
	for _, p := range c.Pools {
		v.pool("pools."+p.Name, p, c)
	}
	v.tenants(c)
	v.positive("results.ttl", c.Results.TTL)
	v.atLeast("results.max_bytes", c.Results.MaxBytes, 1)
	v.abuse(c.Abuse)
	v.bodies(c.Bodies)
	v.prices(c.Prices)
	v.webhooks(c.Webhooks)
}

// bodies checks where large bodies lie.
func (v *validator) abuse(a Abuse) {
	if !slices.Contains([]string{"off", "shadow", "enforce"}, a.Mode) {
		v.bad("abuse.mode", "must be off, shadow or enforce")
	}
	if a.Window < 10*time.Second || a.Window > time.Hour {
		v.bad("abuse.window", "must be from 10s to 1h")
	}
	if a.Learn < 24*time.Hour || a.Learn > 60*24*time.Hour {
		v.bad("abuse.learn", "must be from 24h to 1440h")
	}
}

func (v *validator) bodies(b Bodies) {
	if b.URL != "" {
		if err := bodies.Check(b.URL); err != nil {
			v.bad("bodies.url", "%v", err)
		}
	}
	v.within("bodies.above", b.Above, 1<<10, mostBody)
	for name, key := range map[string]string{"access_key": b.AccessKey, "secret_key": b.SecretKey, "session_token": b.SessionToken} {
		if key != "" && !strings.HasPrefix(b.URL, "s3:") {
			v.bad("bodies."+name, "is for a bucket; bodies.url names none")
		}
	}
	if (b.AccessKey == "") != (b.SecretKey == "") {
		v.bad("bodies.secret_key", "access_key and secret_key go together")
	}
}

var pathRule = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`)

// publicPath reports whether everything can be served under a path: a proxy may leave it
// in the address or take it away, so that it must not look like one of ours.
func publicPath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "v1", "healthz", "readyz", "openapi.yaml", "docs", "login", "logout", "console", "monitoring", "jobs", "batches", "new", "webhooks", "pools", "tenants", "audit", "usage", "anthropic", "openai":
		return false
	}
	return pathRule.MatchString(path)
}

// mostBody is the most bytes of one body: what is less would take none that large.
const mostBody = 32 << 20

// doors checks who may come, and how many.
func (v *validator) doors(c *Config) {
	for i, s := range c.TrustedProxies {
		if _, err := network(s); err != nil {
			v.bad(fmt.Sprintf("trusted_proxies[%d]", i), "%q is neither a prefix, as in 10.0.0.0/8, nor an IP address", s)
		}
	}
	for i, o := range c.CORS.AllowOrigins {
		if u, err := url.Parse(o); o != "*" && (err != nil || CheckURL(o) != nil || o != u.Scheme+"://"+u.Host || strings.ContainsAny(o, "*?")) {
			v.bad(fmt.Sprintf("cors.allow_origins[%d]", i), "%q is not an origin, as in https://app.example, nor *", o)
		}
	}
	for i, h := range c.OpsHosts {
		if h == "" || strings.ContainsAny(h, "/:@ *?#") {
			v.bad(fmt.Sprintf("ops_hosts[%d]", i), "%q is not a host name; write it without a port", h)
		}
	}
	for key, n := range map[string]int{
		"connections": c.Caps.Connections, "requests": c.Caps.Requests, "streams": c.Caps.Streams, "uploads": c.Caps.Uploads,
		"failed_tokens": c.Caps.FailedTokens, "tenant.requests": c.Caps.Tenant.Requests, "tenant.streams": c.Caps.Tenant.Streams, "tenant.uploads": c.Caps.Tenant.Uploads,
	} {
		v.within("caps."+key, int64(n), 1, 1_000_000)
	}
	v.within("caps.body_bytes", c.Caps.BodyBytes, 2*mostBody, 1<<40)
}

// prices checks what models cost: those of one name follow each other without a gap.
func (v *validator) prices(all []Price) {
	for i, p := range all {
		key := "prices." + p.Name
		first := i == 0 || all[i-1].Name != p.Name
		if first && !isGlob(p.Name) {
			v.bad(key, "%q is not a pattern of models (*, ? and [a-z] are)", p.Name)
		}
		if !first || i+1 < len(all) && all[i+1].Name == p.Name {
			nth := 0
			for i-nth > 0 && all[i-nth-1].Name == p.Name {
				nth++
			}
			key += "[" + strconv.Itoa(nth) + "]"
		}
		v.price(key, p)
		if first {
			continue
		}
		switch before := all[i-1]; {
		case before.Until == "" || p.From == "":
			v.bad(key, "holds beside the one before it: say the day on which that ends (until) and this begins (from)")
		case bound(p.From).Before(bound(before.Until)):
			v.bad(key+".from", "%s is before %s, up to which the price before it holds", p.From, before.Until)
		case bound(p.From).After(bound(before.Until)):
			v.bad(key+".from", "leaves a gap without a price from %s to %s", before.Until, p.From)
		}
	}
}

func (v *validator) price(key string, p Price) {
	for name, day := range map[string]string{"from": p.From, "until": p.Until} {
		if _, err := time.Parse(time.DateOnly, day); err != nil && day != "" {
			v.bad(key+"."+name, "%q is no day; write it as in 2027-01-01", day)
		}
	}
	if from, until := bound(p.From), bound(p.Until); !from.IsZero() && !until.IsZero() && !from.Before(until) {
		v.bad(key+".until", "%s is not after %s, from which it holds", p.Until, p.From)
	}
	for name, factor := range map[string]tasks.Money{"batch": p.Batch, "flex": p.Flex, "priority": p.Priority} {
		if factor <= 0 || factor > 100*tasks.Unit {
			v.bad(key+"."+name, "is %s; it has to be a factor of the price, above 0 and at most 100", factor)
		}
	}
}

// isGlob reports whether a pattern of models can be read.
func isGlob(s string) bool {
	_, err := path.Match(s, "")
	return err == nil && s != ""
}

func (v *validator) redis(c *Config) {
	if c.Redis.URL == "" {
		if c.DataDir == "" {
			v.bad("data_dir", "needed for the embedded Redis, since there is no home folder; or give redis.url")
		}
		for _, f := range c.Redis.files() {
			if f.path != "" {
				v.bad(f.key, "is for a Redis of your own; redis.url names none")
			}
		}
	} else if _, err := c.Redis.Target(); err != nil {
		var f Fault
		errors.As(err, &f)
		v.bad(f.Key, "%s", f.Text)
	}
	v.within("redis.max_connections", c.Redis.MaxConnections, 20, 10_000)
	if m := c.Redis.MaxMemory; m != 0 {
		v.atLeast("redis.max_memory", m, 16<<20)
		if c.Redis.URL != "" {
			v.bad("redis.max_memory", "is for the embedded Redis; a server of your own has maxmemory in its own configuration")
		}
	}
	switch p := c.Redis.Prefix; {
	case !prefixRule.MatchString(p):
		v.bad("redis.prefix", "%q is not a prefix: letters, digits, _ and -, at least one and at most 32", p)
	case p == "asynq":
		v.bad("redis.prefix", "asynq is the prefix of Asynq's own keys; choose another")
	}
}

func (v *validator) webhooks(w Webhooks) {
	if _, err := w.Roots(); err != nil {
		v.bad("webhooks.ca_file", "%v", err)
	}
	sound := true
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		if _, err := tasks.NewHeaders(map[string]string{name: w.Headers[name]}); err != nil {
			v.bad("webhooks.headers."+name, "%v", err)
			sound = false
		}
	}
	if _, err := tasks.NewHeaders(w.Headers); err != nil && sound {
		v.bad("webhooks.headers", "%v", err)
	}
	for i, h := range w.AllowHosts {
		if h == "" || strings.ContainsAny(h, "/@ *?#") {
			v.bad(fmt.Sprintf("webhooks.allow_hosts[%d]", i), "%q is neither a host name nor an IP address", h)
		}
	}
	for i, n := range w.DenyNetworks {
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

func (v *validator) auth(a Auth) {
	if a.Issuer == "" {
		v.bad("auth.issuer", "must not be empty")
	}
	if a.Audience == "" {
		v.bad("auth.audience", "must not be empty")
	}
	v.positive("auth.max_lifetime", a.MaxLifetime)
	if a.Users != UsersShared && a.Users != UsersSeparate {
		v.bad("auth.users", "%q is neither %s nor %s", a.Users, UsersShared, UsersSeparate)
	}
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
	taken := map[string]bool{a.Issuer: true}
	for i, issuer := range a.Foreign() {
		key := fmt.Sprintf("auth.issuers[%d].", i)
		issuer.Check(func(name, text string) { v.bad(key+name, "%s", text) })
		if taken[issuer.Issuer] {
			v.bad(key+"issuer", "another issuer, or auth.issuer, is the same")
		}
		taken[issuer.Issuer] = true
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
		if !slices.Contains(tokenLimits, p.TokenLimit) {
			v.bad(key+".token_limit", "%q is not the name of a limit; there are %s", p.TokenLimit, strings.Join(tokenLimits, ", "))
		}
		if _, err := p.Roots(); err != nil {
			v.bad(key+".ca_file", "%v", err)
		}
		v.forwarded(key+".forward_headers", p)
		v.egress(key+".egress", p)
		if err := CheckURL(p.BaseURL); err != nil {
			v.bad(key+".base_url", "%v", err)
			continue
		}
		for _, path := range []string{"/chat/completions", "/messages"} {
			if strings.HasSuffix(strings.TrimRight(p.BaseURL, "/"), path) {
				v.bad(key+".base_url", "ends with %s, which each call adds itself: leave it away", path)
			}
		}
		v.apiKey(key, p)
	}
}

// apiKey checks a provider's key, and what needs it.
func (v *validator) apiKey(key string, p Provider) {
	if p.APIKey == "" && !loopbackURL(p.BaseURL) {
		v.bad(key+".api_key", "needed; may also come from %s or %s_FILE", variable(key+".api_key"), variable(key+".api_key"))
	}
	if p.UserHash && p.APIKey == "" {
		v.bad(key+".user_hash", "needs api_key, which keys the hash")
	}
	if strings.ContainsFunc(p.APIKey, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		v.bad(key+".api_key", "holds a space or another character that a header cannot carry")
	}
}

// forwarded checks which fields of callers are sent on to a provider.
func (v *validator) forwarded(key string, p Provider) {
	for i, name := range p.ForwardHeaders {
		if !strings.EqualFold(name, tasks.OpenAIOrganization) && !strings.EqualFold(name, tasks.OpenAIProject) {
			v.bad(fmt.Sprintf("%s[%d]", key, i), "%q is not one of %s and %s", name, tasks.OpenAIOrganization, tasks.OpenAIProject)
		} else if p.Dialect != "openai" {
			v.bad(fmt.Sprintf("%s[%d]", key, i), "is for providers of the dialect openai")
		}
	}
}

// egress checks the ways to a provider. Nothing of one is quoted: it may hold a password.
func (v *validator) egress(key string, p Provider) {
	for i := range p.Egress {
		if _, err := (Provider{Egress: p.Egress[:i+1]}).Ways(); err != nil {
			v.bad(fmt.Sprintf("%s[%d]", key, i), "%v", errors.Unwrap(err))
			return
		}
	}
}

// tokenLimits are the members that carry a limit of output tokens.
var tokenLimits = []string{"max_tokens", "max_completion_tokens", "max_output_tokens"}

// variable is the environment variable of a setting.
func variable(key string) string {
	return "SLUICE_" + strings.ToUpper(strings.NewReplacer(".", "__", "-", "_").Replace(key))
}

func (v *validator) pool(key string, p Pool, c *Config) {
	if p.Name == queue.Deliveries {
		v.bad(key, "the name is taken by the queue of webhooks")
	}
	v.name(key, p.Name)
	if len(p.Accounts) > 0 {
		v.accounts(key, p, c)
	} else if _, ok := c.ProviderOf(p.Name); !ok {
		v.noProvider(key+".provider", p.Provider, c)
	}
	v.models(key, p, c)
	v.limits(key+".limits", p.Limits)
	v.positive(key+".timeout", p.Timeout)
	if p.Cache.TTL < 0 {
		v.bad(key+".cache.ttl", "is %v; it has to be 0s, which is off, or longer", p.Cache.TTL)
	}
	v.atLeast(key+".max_attempts", int64(p.MaxAttempts), 1)
	v.breaker(key+".breaker", p.Breaker)
	v.batches(key+".batches", p.Batches)
	v.within(key+".lanes.high", p.Lanes.High, 1, mostShare)
	v.within(key+".lanes.normal", p.Lanes.Normal, 1, mostShare)
	v.within(key+".lanes.low", p.Lanes.Low, 1, mostShare)
}

// accounts checks the accounts of a pool.
func (v *validator) accounts(key string, p Pool, c *Config) {
	if p.Provider != "" {
		v.bad(key+".provider", "a pool has a provider or accounts; leave one of them away")
	}
	first, _ := c.Named(p.Accounts[0].Provider)
	names, keys := map[string]bool{}, map[string]Account{}
	for i, a := range p.Accounts {
		at := fmt.Sprintf("%s.accounts[%d]", key, i)
		provider, ok := c.Named(a.Provider)
		if !ok {
			v.noProvider(at+".provider", a.Provider, c)
			continue
		}
		if provider.Dialect != first.Dialect {
			v.bad(at+".provider", "speaks %s, and the first account %s: a pool has one dialect", provider.Dialect, first.Dialect)
		}
		v.name(at+".name", a.ID)
		if names[a.ID] {
			v.bad(at+".name", "another account is named %q; give this one a name of its own", a.ID)
		}
		names[a.ID] = true
		v.within(at+".weight", a.Weight, 1, mostShare)
		v.limits(at+".limits", a.Limits)
		if same, ok := keys[provider.BaseURL+" "+provider.APIKey]; ok && (a.Allowance == "" || a.Allowance != same.Allowance) {
			v.bad(at+".provider", "has the address and key of account %q, and so its allowance: give both the same allowance", same.ID)
		}
		keys[provider.BaseURL+" "+provider.APIKey] = a
		for ours, theirs := range a.Models {
			if theirs == "" || ours == "" {
				v.bad(at+".models."+ours, "needs the provider's name of the model")
			}
		}
		if a.Allowance != "" {
			v.name(at+".allowance", a.Allowance)
			v.shared(at, a)
		}
	}
}

// shared checks that all accounts that name an allowance have the same limits.
func (v *validator) shared(at string, a Account) {
	if v.allowances == nil {
		v.allowances = map[string]Account{}
	}
	other, ok := v.allowances[a.Allowance]
	if v.allowances[a.Allowance] = a; ok && (other.Limits != a.Limits || other.FollowProvider != a.FollowProvider) {
		v.bad(at+".limits", "are others than those of account %q, which shares the allowance %s", other.ID, a.Allowance)
	}
}

// mostShare keeps a lane from having next to nothing: the order of work counts in microseconds.
const mostShare = 1000

// noProvider says what to do about the name of a provider that does not exist.
func (v *validator) noProvider(key, name string, c *Config) {
	switch name {
	case "":
		v.bad(key, "needed")
	case "anthropic", "openai":
		v.bad(key, "there is no provider %q; configure providers.%s or set %s_API_KEY", name, name, strings.ToUpper(name))
	default:
		names := []string{"fake"}
		for _, p := range c.Providers {
			names = append(names, p.Name)
		}
		slices.Sort(names)
		v.bad(key, "there is no provider %q, only %s", name, strings.Join(slices.Compact(names), ", "))
	}
}

func (v *validator) models(key string, p Pool, c *Config) {
	if len(p.Models) == 0 {
		v.bad(key+".models", "needed: the models that this pool serves, as in [\"claude-*\"]")
	}
	for i, glob := range p.Models {
		if !isGlob(glob) {
			v.bad(fmt.Sprintf("%s.models[%d]", key, i), "%q is not a pattern (*, ? and [a-z] are)", glob)
		}
	}
	for i, model := range p.FallbackModels {
		if _, ok := c.Pool(model); !ok {
			v.bad(fmt.Sprintf("%s.fallback_models[%d]", key, i), "no pool serves the model %q", model)
		}
	}
}

func (v *validator) limits(key string, l Limits) {
	v.atLeast(key+".requests_per_minute", l.RequestsPerMinute, 1)
	v.atLeast(key+".input_tokens_per_minute", l.InputTokensPerMinute, 0)
	v.atLeast(key+".output_tokens_per_minute", l.OutputTokensPerMinute, 0)
	v.within(key+".request_burst", l.RequestBurst, 1, math.MaxInt32)
	v.within(key+".concurrency", int64(l.Concurrency), 1, 10_000)
}

func (v *validator) batches(key string, b Batches) {
	v.positive(key+".min_room", b.MinRoom)
	v.within(key+".max_jobs", b.MaxJobs, 1, 50_000)
	v.within(key+".max_bytes", b.MaxBytes, 1<<10, 200<<20)
	v.positive(key+".max_age", b.MaxAge)
	v.positive(key+".poll_interval", b.PollInterval)
	v.positive(key+".spill_before", b.SpillBefore)
	if b.SpillBefore >= b.MinRoom {
		v.bad(key+".spill_before", "is %v; it has to be below min_room, %v, or no batch has any time", b.SpillBefore, b.MinRoom)
	}
}

func (v *validator) breaker(key string, b Breaker) {
	v.positive(key+".window", b.Window)
	v.atLeast(key+".min_calls", int64(b.MinCalls), 1)
	if b.FailureRatio <= 0 || b.FailureRatio > 1 {
		v.bad(key+".failure_ratio", "is %v; it has to be above 0 and at most 1", b.FailureRatio)
	}
	v.positive(key+".probe_interval", b.ProbeInterval)
}

func (v *validator) tenants(c *Config) {
	for _, t := range c.Tenants {
		key := "tenants." + t.Name
		if !auth.ValidTenant(t.Name) {
			v.bad(key, "is not a tenant's name: letters, digits, _ and -, at most 64")
		}
		v.atLeast(key+".weight", t.Weight, 1)
		v.atLeast(key+".submits_per_minute", t.SubmitsPerMinute, 0)
		v.atLeast(key+".resends_per_minute", t.ResendsPerMinute, 0)
		v.atLeast(key+".queued_jobs", t.QueuedJobs, 0)
		v.atLeast(key+".queued_bytes", t.QueuedBytes, 0)
		v.atLeast(key+".running_jobs", t.RunningJobs, 0)
		v.atLeast(key+".tokens_per_day", t.TokensPerDay, 0)
		v.atLeast(key+".users.submits_per_minute", t.Users.SubmitsPerMinute, 0)
		v.atLeast(key+".users.queued_jobs", t.Users.QueuedJobs, 0)
		v.atLeast(key+".users.running_jobs", t.Users.RunningJobs, 0)
		v.atLeast(key+".users.tokens_per_day", t.Users.TokensPerDay, 0)
		if t.Users != (TenantUsers{}) && c.Auth.Users == UsersShared {
			v.bad(key+".users", LimitsNobody)
		}
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

// CheckURL returns nil when s is the address of a web server: http or https,
// without a user, a password, a query or a fragment. The error says what is
// wrong, in words that follow the name of a setting, and does not quote s.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("has to be an address like https://host or http://host:port")
	case !portal(u):
		return errors.New("has no port from 1 to 65535 behind its colon")
	case u.User != nil:
		return errors.New("must not hold a user or a password")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("must not have a query or a fragment")
	}
	return nil
}

// portal reports whether an address names no port, or one that there is.
func portal(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
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
