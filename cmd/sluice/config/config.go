// Package config is what an operator may set: a YAML file, overridden by the
// variables SLUICE_… of the environment, over defaults.
//
// It promises that
//   - every fault is named at once, each by its key and, when a value was given,
//     by its line of the file or its variable;
//   - a configuration without a fault can be used as it is: every value is in its
//     range, every name that a setting mentions exists;
//   - nothing has to be set: without a file and without variables there is a
//     configuration, with the embedded Redis and the built-in fake provider, as
//     long as there is a home folder to keep the data in;
//   - every setting can come from the file or from the environment, and a secret
//     also from a file of its own (…_FILE);
//   - what [Config.Print] writes is a configuration again, but for its secrets.
//
// It never prints a secret or quotes one in a fault, never reads an environment
// other than the one it is given, never opens a connection, and never writes a
// file but the secret that [Config.EnsureSecret] makes. It starts nothing.
package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/seal"
	"github.com/sluicehq/sluice/worker/egress"
	"github.com/sluicehq/sluice/worker/pool"
)

// Config is the effective configuration: the file, overridden by the
// environment, over the defaults. [Load] alone makes it, and it is not changed
// after. The fields say what zero means; where they do not, a configuration
// without a fault never holds zero.
//
// The tag key is a setting's name in the file; a field without one is not a
// setting. A slice of structs with a Name is a mapping in the file, in the
// file's order. Settings tagged secret are masked when printed and may be read
// from the file that the environment variable …_FILE names.
type Config struct {
	Listen    string `key:"listen"`     // host:port of the API; port 0 is any free one
	OpsListen string `key:"ops_listen"` // host:port of metrics and health; port 0 is any free one
	PublicURL string `key:"public_url"` // no slash at its end; empty when listen has port 0, which is known only later: see [Config.PublicFor]
	// MaxWait is the longest that a submit or a poll is held: whole seconds.
	MaxWait time.Duration `key:"max_wait"`
	// DrainDelay is how long an API alone in its process answers on after a stop
	// signal, saying that it goes; 0: not at all.
	DrainDelay time.Duration `key:"drain_delay"`
	// TrustedProxies are the networks whose X-Forwarded-For says whose a request is.
	// Empty: it is the peer's.
	TrustedProxies []string   `key:"trusted_proxies"`
	CORS           CORS       `key:"cors"`
	OpsHosts       []string   `key:"ops_hosts"` // names in a Host that ops_listen answers to, beside IP addresses and loopback names; empty: those alone
	Caps           Caps       `key:"caps"`
	Redis          Redis      `key:"redis"`
	Auth           Auth       `key:"auth"`
	Providers      []Provider `key:"providers"` // in the file's order; at least one
	Pools          []Pool     `key:"pools"`     // in the file's order; at least one
	Tenants        []Tenant   `key:"tenants"`   // "default" comes first and is always there
	Results        Results    `key:"results"`
	Prices         []Price    `key:"prices"` // in the file's order; the first that matches a model is its price; empty: no money is shown
	Abuse          Abuse      `key:"abuse"`
	Bodies         Bodies     `key:"bodies"`
	Seal           Seal       `key:"seal"`
	DataDir        string     `key:"data_dir"` // empty when there is no home folder and none was given: nothing can be kept
	Webhooks       Webhooks   `key:"webhooks"`

	// File is the configuration file that was read; empty: none.
	File string
}

// CORS says whose pages may call the API from a browser.
type CORS struct {
	AllowOrigins []string `key:"allow_origins"` // as in https://app.example; "*" is any; empty: none
}

// Redis says which Redis.
type Redis struct {
	URL string `key:"url" secret:"url"` // as [ParseRedis] reads it; empty: the embedded one, in DataDir
	// PasswordFile holds the password in place of URL. Each new connection reads it. Empty: none does.
	PasswordFile string `key:"password_file"`
	CAFile       string `key:"ca_file"`   // vouches for Redis in place of the system; empty: the system does
	CertFile     string `key:"cert_file"` // with KeyFile, the certificate that we show, read again for each connection; empty: none
	KeyFile      string `key:"key_file"`
	// Prefix begins all keys, channels and Asynq queues, so that several Sluices on
	// one Redis never meet.
	Prefix string `key:"prefix"`
	// AllowEviction takes jobs in although Redis may evict them. False: intake is refused.
	AllowEviction bool `key:"allow_eviction"`
	// MaxConnections is how many connections one process has open at most, to each
	// server of a cluster.
	MaxConnections int64 `key:"max_connections"`
	// MaxMemory is how many bytes of memory the embedded Redis takes at most. 0: half
	// of what the machine has.
	MaxMemory int64 `key:"max_memory"`
}

// Auth says whose tokens are accepted. At most one of JWKSURL and JWKSFile is set.
type Auth struct {
	Issuer      string        `key:"issuer"`                   // the iss of every token
	Audience    string        `key:"audience"`                 // the aud of every token
	MaxLifetime time.Duration `key:"max_lifetime"`             // the longest time from iat to exp
	Users       string        `key:"users"`                    // UsersShared or UsersSeparate
	HMACSecret  string        `key:"hmac_secret" secret:"all"` // empty: the one kept in DataDir, see [Config.Secret]; else at least 32 bytes
	JWKSURL     string        `key:"jwks_url"`                 // empty: no key set is fetched
	JWKSFile    string        `key:"jwks_file"`                // empty: no key set is read
	Issuers     []Issuer      `key:"issuers"`                  // foreign ones, no two of the same iss; empty: none
}

// The users of a tenant, which the sub of a token names.
const (
	UsersShared   = "shared"   // each sees all that is the tenant's
	UsersSeparate = "separate" // each sees only what is its own
)

// LimitsNobody says of limits of each user that nobody is told apart by.
const LimitsNobody = "limits each user, and auth.users is " + UsersShared + ": say auth.users: " + UsersSeparate + ", or leave it out"

// Issuer is a foreign issuer of tokens; [auth.Issuer] says what each field means.
type Issuer struct {
	Issuer      string              `key:"issuer"`
	Audiences   []string            `key:"audiences"`
	Discovery   bool                `key:"discovery"`
	JWKSURL     string              `key:"jwks_url"`
	JWKSFile    string              `key:"jwks_file"`
	CAFile      string              `key:"ca_file"`
	TokenFile   string              `key:"token_file"`
	AllowHTTP   bool                `key:"allow_http"`
	Claims      ClaimNames          `key:"claims"`
	Tenant      string              `key:"tenant"`
	Tenants     map[string]string   `key:"tenants"`
	Scope       string              `key:"scope"`
	Scopes      map[string]string   `key:"scopes"`
	Require     map[string][]string `key:"require"`
	MaxLifetime time.Duration       `key:"max_lifetime"` // 0: that of Auth
	Leeway      time.Duration       `key:"leeway"`       // 0: 30 s
}

// ClaimNames are the names of an issuer's claims; empty: the standard ones.
type ClaimNames struct {
	Tenant string `key:"tenant"`
	Scope  string `key:"scope"`
	Sub    string `key:"sub"`
	Aud    string `key:"aud"`
	Pools  string `key:"pools"` // empty: none narrows a token
}

// Foreign returns the issuers as [auth.New] takes them.
func (a *Auth) Foreign() []auth.Issuer {
	var list []auth.Issuer
	for _, i := range a.Issuers {
		list = append(list, auth.Issuer{
			Issuer: i.Issuer, Audiences: i.Audiences, Discovery: i.Discovery, JWKSURL: i.JWKSURL, JWKSFile: i.JWKSFile,
			CAFile: i.CAFile, TokenFile: i.TokenFile, AllowHTTP: i.AllowHTTP, Claims: auth.ClaimNames(i.Claims),
			Tenant: i.Tenant, Tenants: i.Tenants, Scope: i.Scope, Scopes: i.Scopes, Require: i.Require,
			MaxLifetime: i.MaxLifetime, Leeway: i.Leeway,
		})
	}
	return list
}

// Provider is an account at an LLM provider.
type Provider struct {
	Name    string
	Dialect string `key:"dialect"`              // "anthropic" or "openai"
	BaseURL string `key:"base_url"`             // empty for the built-in fake provider alone
	APIKey  string `key:"api_key" secret:"all"` // empty: none is sent, which a server on this machine may allow

	// What a compatible server refuses is not sent. False: answers come whole, and
	// usage is what the server says unasked.
	Stream        bool   `key:"stream"`
	StreamOptions bool   `key:"stream_options"`
	TokenLimit    string `key:"token_limit"` // the member that carries a job's limit; never empty but for the fake provider
	CAFile        string `key:"ca_file"`     // vouches for base_url in place of the system; empty: the system does
	// ForwardHeaders are the fields of callers that name another allowance and are sent on
	// all the same: OpenAI-Organization, OpenAI-Project. Empty: none.
	ForwardHeaders []string `key:"forward_headers"`
	// Egress are the ways to the provider, each "direct" or a proxy; empty: directly.
	Egress []string `key:"egress" secret:"proxy"`
	// TraceContext has the provider told of the trace of each call, in traceparent.
	TraceContext bool `key:"trace_context"`
	// UserHash has the provider told whom each call is for, as a hash of tenant and user that
	// is keyed by APIKey, where the caller names nobody.
	UserHash bool `key:"user_hash"`

	// Fake is set on the built-in fake provider, whose address is known only
	// once it listens: BaseURL and APIKey are empty.
	Fake bool
}

// Forwards reports whether callers' fields of a name are sent on.
func (p Provider) Forwards(name string) bool {
	return slices.ContainsFunc(p.ForwardHeaders, func(listed string) bool { return strings.EqualFold(listed, name) })
}

// Ways returns the ways of Egress, none when there are none.
func (p Provider) Ways() (ways []egress.Way, err error) {
	for i, listed := range p.Egress {
		way, err := egress.Parse(listed)
		if err == nil && slices.ContainsFunc(ways, func(w egress.Way) bool { return w.Name == way.Name }) {
			err = errors.New("is listed twice")
		}
		if err != nil {
			return nil, fmt.Errorf("egress[%d]: %w", i, err)
		}
		ways = append(ways, way)
	}
	return ways, nil
}

// Roots returns the certificates of CAFile, nil when there is none.
func (p Provider) Roots() (*x509.CertPool, error) { return roots(p.CAFile) }

func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	return withCAs(x509.NewCertPool(), file)
}

// Roots returns the system's certificates and those of CAFile, nil when there is none.
func (w Webhooks) Roots() (*x509.CertPool, error) {
	if w.CAFile == "" {
		return nil, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil { // an image without any
		roots = x509.NewCertPool()
	}
	return withCAs(roots, w.CAFile)
}

func withCAs(roots *x509.CertPool, file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in the form of PEM", file)
	}
	return roots, nil
}

// Pool is one upstream allowance.
type Pool struct {
	Name        string
	Provider    string        `key:"provider"` // a provider's name; empty where there are accounts
	Accounts    []Account     `key:"accounts"` // in place of Provider; empty: the pool is one account
	Models      []string      `key:"models"`   // globs, as path.Match takes them, but "/" is an ordinary character; at least one
	Limits      Limits        `key:"limits"`
	Timeout     time.Duration `key:"timeout"`      // of one attempt
	MaxAttempts int           `key:"max_attempts"` // calls that fail by the provider's fault before the job fails
	Breaker     Breaker       `key:"breaker"`
	Lanes       Lanes         `key:"lanes"`
	// FallbackModels answer in place of a job's own model while this pool is
	// paused or when the job's attempts are exhausted, in this order, for jobs
	// that have no list of their own. Empty: none.
	FallbackModels []string `key:"fallback_models"`
	Cache          Cache    `key:"cache"`
	// ShareInFlight lets identical requests of one tenant that are under way at
	// the same time share one call upstream. False: each has its own.
	ShareInFlight bool `key:"share_in_flight"`
	// NativeBatch lets jobs that have time go to the provider's own batch API. False: none does.
	NativeBatch bool    `key:"native_batch"`
	Batches     Batches `key:"batches"`

	// FollowProvider is set when none of the rates in Limits was given: they are
	// a guess then, which the provider's headers may raise as well as lower.
	// False: headers lower them only, and fill in those that are 0.
	FollowProvider bool
}

// Account is one of several accounts of a pool.
type Account struct {
	Provider  string `key:"provider"`  // a provider's name
	ID        string `key:"name"`      // in the list of attempts; never empty but in a fault: the provider's name
	Weight    int64  `key:"weight"`    // share of what several accounts could send at once
	Allowance string `key:"allowance"` // a name, which all accounts give that share Limits; empty: they are this account's own
	Limits    Limits `key:"limits"`    // what nobody gave is the pool's
	// Models are the provider's names of models where they are others than the callers'.
	Models map[string]string `key:"models"`

	// FollowProvider is that of [Pool], of these limits.
	FollowProvider bool
}

// Several reports whether a pool is more than one account of its own allowance.
func (p Pool) Several() bool {
	return len(p.Accounts) > 1 || len(p.Accounts) == 1 && p.Accounts[0].Allowance != ""
}

// AccountsOf are the accounts of a pool; of one with a provider, that one.
func (c *Config) AccountsOf(p Pool) []Account {
	if len(p.Accounts) > 0 {
		return p.Accounts
	}
	return []Account{{Provider: p.Provider, ID: p.Provider, Weight: 1, Limits: p.Limits, FollowProvider: p.FollowProvider}}
}

// GateOf names the allowance of an account among all allowances. That of the first account has the
// pool's name, by which earlier releases know what may be a pool's one account.
func (p Pool) GateOf(a Account) string {
	switch {
	case a.Allowance != "":
		return "@" + a.Allowance
	case len(p.Accounts) > 0 && p.Accounts[0].ID != a.ID:
		return p.Name + "." + a.ID
	}
	return p.Name
}

// Allowed is what the allowances of a pool's accounts are together.
func (c *Config) Allowed(p Pool) Limits {
	var sum Limits
	seen := map[string]bool{}
	for _, a := range c.AccountsOf(p) {
		gate, l := p.GateOf(a), a.Limits
		if seen[gate] {
			continue
		}
		add(&sum.RequestsPerMinute, l.RequestsPerMinute, len(seen) == 0)
		add(&sum.InputTokensPerMinute, l.InputTokensPerMinute, len(seen) == 0)
		add(&sum.OutputTokensPerMinute, l.OutputTokensPerMinute, len(seen) == 0)
		sum.RequestBurst, sum.Concurrency = sum.RequestBurst+l.RequestBurst, sum.Concurrency+l.Concurrency
		seen[gate] = true
	}
	return sum
}

// add adds to a limit, where 0 is none.
func add(sum *int64, n int64, first bool) {
	if n == 0 || *sum == 0 && !first {
		*sum = 0
		return
	}
	*sum += n
}

// Limits are a pool's allowance. What nobody gave is the provider's entry tier.
type Limits struct {
	RequestsPerMinute     int64 `key:"requests_per_minute"`
	InputTokensPerMinute  int64 `key:"input_tokens_per_minute"`  // 0: no limit
	OutputTokensPerMinute int64 `key:"output_tokens_per_minute"` // 0: no limit
	RequestBurst          int64 `key:"request_burst"`            // requests that the provider takes at once
	Concurrency           int   `key:"concurrency"`              // calls at the same time, of all workers
}

// Cache says how long the answer to a request of temperature 0 serves the same
// request of the same tenant again.
type Cache struct {
	TTL time.Duration `key:"ttl"` // 0: never
}

// Batches say which jobs go to a provider's own batch API, and when.
type Batches struct {
	MinRoom      time.Duration `key:"min_room"`      // from a job's turn to its deadline, at least
	MaxJobs      int64         `key:"max_jobs"`      // of a batch
	MaxBytes     int64         `key:"max_bytes"`     // of its requests
	MaxAge       time.Duration `key:"max_age"`       // how long one is gathered
	PollInterval time.Duration `key:"poll_interval"` // between looks at one, at first
	SpillBefore  time.Duration `key:"spill_before"`  // a job is back in the ordinary lane so long before its deadline
}

// Breaker says when a pool is paused because its provider fails.
type Breaker struct {
	Window        time.Duration `key:"window"`         // how far back calls are counted
	MinCalls      int           `key:"min_calls"`      // fewer calls are not judged
	FailureRatio  float64       `key:"failure_ratio"`  // above 0, at most 1
	ProbeInterval time.Duration `key:"probe_interval"` // of a paused pool, at first
}

// Lanes are the shares of a pool's allowance that its lanes have while all three have work.
type Lanes struct {
	High   int64 `key:"high"` // 1 or more, also below
	Normal int64 `key:"normal"`
	Low    int64 `key:"low"`
}

// Tenant is what one tenant may use.
type Tenant struct {
	Name             string
	Weight           int64 `key:"weight"`             // share of the turns among tenants
	SubmitsPerMinute int64 `key:"submits_per_minute"` // 0: no limit
	ResendsPerMinute int64 `key:"resends_per_minute"` // tests of webhook endpoints and redeliveries; 0: no limit
	QueuedJobs       int64 `key:"queued_jobs"`        // 0: no limit
	QueuedBytes      int64 `key:"queued_bytes"`       // of the bodies of jobs that have not ended; 0: no limit
	RunningJobs      int64 `key:"running_jobs"`       // with workers at once: handed out or running; 0: no limit
	TokensPerDay     int64 `key:"tokens_per_day"`     // input and output; 0: no limit
	// CostPerDay is the money by Prices; 0: no limit.
	CostPerDay   tasks.Money `key:"cost_per_day"`
	HighPriority bool        `key:"high_priority"` // it may use the lane high
	// Users is what each of its users may use of that, where users are kept apart.
	Users TenantUsers `key:"users"`
}

// TenantUsers is what each user of a tenant may use; 0: no limit but the tenant's.
type TenantUsers struct {
	SubmitsPerMinute int64       `key:"submits_per_minute"`
	QueuedJobs       int64       `key:"queued_jobs"`
	RunningJobs      int64       `key:"running_jobs"`
	TokensPerDay     int64       `key:"tokens_per_day"`
	CostPerDay       tasks.Money `key:"cost_per_day"`
}

// Caps are what callers may hold of one API process at once.
type Caps struct {
	Connections  int   `key:"connections"`
	Requests     int   `key:"requests"`      // under way
	Streams      int   `key:"streams"`       // long polls and event streams
	Uploads      int   `key:"uploads"`       // batches that are being sent
	BodyBytes    int64 `key:"body_bytes"`    // of bodies in memory, decompressed
	FailedTokens int   `key:"failed_tokens"` // and sign-ins, of one address in a minute

	Tenant TenantCaps `key:"tenant"`
}

// TenantCaps are one tenant's part of [Caps]. It never has more than is left for
// the others.
type TenantCaps struct {
	Requests int `key:"requests"`
	Streams  int `key:"streams"`
	Uploads  int `key:"uploads"`
}

// Proxies returns TrustedProxies as networks; a single address is one.
func (c *Config) Proxies() ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(c.TrustedProxies))
	for _, s := range c.TrustedProxies {
		p, err := network(s)
		if err != nil {
			return nil, fmt.Errorf("trusted_proxies: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// network reads a prefix or a single address; a mapped one is that of IPv4.
func network(s string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), err
}

// Results says how long a finished job is kept and how large its answer may be.
type Results struct {
	TTL      time.Duration `key:"ttl"`
	MaxBytes int64         `key:"max_bytes"`
}

// Abuse says how tenants are watched.
type Abuse struct {
	Mode   string        `key:"mode"`   // off, shadow or enforce
	Window time.Duration `key:"window"` // of volumes
	Learn  time.Duration `key:"learn"`  // before which a tenant has no past
}

// Seal says with which keys the content of tenants is sealed. In the file, off alone stands
// for the whole.
type Seal struct {
	Off  bool      `key:"off"`               // what is written lies in plain; Keys open what was sealed
	Keys []SealKey `key:"keys" secret:"all"` // in the file's order: the last seals, all open; empty: nothing is sealed, but by dev and run
}

// SealKey is the name of a master key, and its 32 bytes.
type SealKey [2]string

// Masters are the keys as a ring takes them.
func (s Seal) Masters() []seal.Master {
	var out []seal.Master
	for _, k := range s.Keys {
		out = append(out, seal.Master{Name: k[0], Key: []byte(k[1])})
	}
	return out
}

// Bodies says where large prompts and results lie.
type Bodies struct {
	URL   string `key:"url"`   // as [bodies.Check] takes it; empty: see [Config.BodiesURL]
	Above int64  `key:"above"` // bytes of a body that Redis has at most
	// For a bucket; empty: the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
	// AWS_SESSION_TOKEN, and without these the role of the machine.
	AccessKey    string `key:"access_key" secret:"all"`
	SecretKey    string `key:"secret_key" secret:"all"`
	SessionToken string `key:"session_token" secret:"all"`
}

// BodiesURL is where large bodies lie: by default, with the embedded Redis, in a folder
// of DataDir. Empty: in Redis. With a Redis prefix of its own, a Sluice has a folder of
// that name there: another's sweep would take its bodies for nobody's.
func (c *Config) BodiesURL() string {
	at := c.bodiesURL()
	u, err := url.Parse(at)
	if at == "" || err != nil || u.Scheme == "redis" || c.Redis.Prefix == "" || c.Redis.Prefix == "sluice" {
		return at
	}
	return u.JoinPath(c.Redis.Prefix).String()
}

// BodiesAbove is how many bytes of a body its record has at most. What is one piece may as
// well stand there.
func (c *Config) BodiesAbove() int64 {
	if c.Bodies.URL == "redis:" {
		return max(c.Bodies.Above, bodies.PieceSize)
	}
	return c.Bodies.Above
}

func (c *Config) bodiesURL() string {
	if c.Bodies.URL != "" || c.Redis.URL != "" {
		return c.Bodies.URL
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil || c.DataDir == "" {
		return ""
	}
	return (&url.URL{Scheme: "file", Path: filepath.Join(dir, "bodies")}).String()
}

// Price is what a model's tokens cost, in money per million. Of one name several may follow
// each other, written as a list, each for days of its own.
type Price struct {
	Name         string      // a glob, as those of a pool's models
	Input        tasks.Money `key:"input"`
	Output       tasks.Money `key:"output"`
	CacheRead    tasks.Money `key:"cache_read"`     // tokens that the provider found in its cache
	CacheWrite   tasks.Money `key:"cache_write"`    // tokens that it put there
	CacheWrite1h tasks.Money `key:"cache_write_1h"` // tokens that it put there for an hour; 0: as CacheWrite
	// Factors of the service tier that the answer names.
	Batch    tasks.Money `key:"batch"`
	Flex     tasks.Money `key:"flex"`
	Priority tasks.Money `key:"priority"`
	// The first UTC day on which it holds, and the first on which it does no more, as in 2027-01-01; "": no bound.
	From  string `key:"from"`
	Until string `key:"until"`
}

// bound is the midnight of a day of a price; zero: none, or none that can be read, which check says.
func bound(day string) time.Time {
	t, _ := time.Parse(time.DateOnly, day)
	return t
}

// PriceList is what models cost, as a worker and a run read it.
func (c *Config) PriceList() tasks.Prices {
	var list tasks.Prices
	for _, p := range c.Prices {
		list = append(list, tasks.Price{
			Models: p.Name, From: bound(p.From), Until: bound(p.Until),
			Input: p.Input, Output: p.Output, CacheRead: p.CacheRead, CacheWrite: p.CacheWrite, CacheWrite1h: p.CacheWrite1h,
			Batch: p.Batch, Flex: p.Flex, Priority: p.Priority,
		})
	}
	return list
}

// Webhooks says which addresses of receivers may be dialled, and how. The zero value is
// the strictest: https on public addresses alone.
type Webhooks struct {
	AllowHTTP    bool     `key:"allow_http"`    // also without TLS
	AllowPrivate bool     `key:"allow_private"` // also private addresses and any port
	AllowHosts   []string `key:"allow_hosts"`   // hosts to which AllowPrivate applies by themselves; empty: none
	CAFile       string   `key:"ca_file"`       // vouches for receivers beside the system; empty: the system alone
	// Headers are sent with every webhook.
	Headers      map[string]string `key:"headers" secret:"all"`
	DenyNetworks []string          `key:"deny_networks"` // prefixes that are never dialled, whatever else is allowed; empty: none of the operator's
}

// Pool returns the name of the first pool, in the file's order, that serves the
// model; ok is false when none does.
func (c *Config) Pool(model string) (name string, ok bool) {
	for _, p := range c.Pools {
		if pool.Serves(p.Models, model) {
			return p.Name, true
		}
	}
	return "", false
}

// ProviderOf returns the provider of the pool of that name, of several accounts the first
// one's; ok is false when there is no such pool, or no such provider.
func (c *Config) ProviderOf(pool string) (provider Provider, ok bool) {
	for _, p := range c.Pools {
		if p.Name != pool {
			continue
		}
		return c.Named(c.AccountsOf(p)[0].Provider)
	}
	return Provider{}, false
}

// Named returns the provider of a name, if there is one.
func (c *Config) Named(provider string) (Provider, bool) {
	for _, p := range c.Providers {
		if p.Name == provider {
			return p, true
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
