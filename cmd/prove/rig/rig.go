// Package rig sets up Sluice as an operator would, for proofs and measurements:
// a redis-server, API processes and workers, each a child process, and the
// strict fake provider in the process that asks.
//
// It listens on loopback alone, and signals no process but its own children,
// by their process id. It never says whether what it ran did well.
package rig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// Config says what a Stage is made of.
type Config struct {
	// Name is that of the stage's folder in the lab's, for the configuration,
	// logs and Redis's data.
	Name          string
	APIs, Workers int
	// Flags are global flags of the program, such as "--log-level", "warn".
	Flags []string
	// RedisArgs are further arguments of redis-server, which writes its
	// append-only file at each command unless they say otherwise.
	RedisArgs []string
	// RedisURL is of a Redis that somebody else started and ends. The stage then has
	// none of its own: Redis and RDB are nil.
	RedisURL string
	// TCP has everything reach Redis by TCP, as between machines. Otherwise it
	// is by a unix socket, whose address nobody else can take while Redis is away.
	TCP bool
	// RoundTrip is what a round trip of the program to Redis takes longer than the
	// machine needs; above 0 only with TCP. The stage's own client is near.
	RoundTrip time.Duration
	// Nice is how much the workers stand back behind the rest of the stage where
	// processors are short, as nice -n counts.
	Nice int
	// Pool is the body of the one pool's configuration but for its provider and
	// models, in YAML's flow style, such as "limits: {requests_per_minute: 60}".
	Pool string
	// Accounts are the pool's in place of the one provider; Fake is the first one's.
	Accounts []Account
	// Providers and Pools are further lines of these parts of the configuration, each with
	// two spaces before it. A second provider is often the stage's own in another dialect.
	Providers, Pools string
	// Settings are further lines of the configuration.
	Settings string
	Fake     fake.Config
	// OneKey has all workers use one provider key. Otherwise each has its own,
	// by which the provider tells their calls apart: for proofs in which the
	// provider sets no limits.
	OneKey bool
	// Env is added to the environment of every process of Sluice.
	Env []string
	// API is added to the environment of each API.
	API []string
	// Provider is one that runs already, in place of a Fake of the stage's own.
	Provider *Provider
	// Former is the program of the release before, in place of the lab's. Its
	// configuration has only what release 0.1.0 knows.
	Former string
	// Worker returns each worker's program and what is added to its environment.
	// Nil: the lab's, and nothing.
	Worker func(i int) (bin string, env []string)
}

// Account is one account of the pool, at a provider of its own.
type Account struct {
	Name  string
	Key   string
	Body  string // of its configuration but for its provider, as Config.Pool has it
	Fake  fake.Config
	where *Provider
}

// Model is a model whose jobs the pool serves, as it does those of every
// "claude-*".
const Model = "claude-sonnet-4-5"

// Pool is the pool's name.
const Pool = "proof"

const configFile = "sluice.yaml"

// Secret is what the APIs check tokens with.
const Secret = "proof secret proof secret proof secret proof secret"

// Stage is a running set of processes.
type Stage struct {
	Redis    *Proc
	RDB      *redis.Client // of Redis; it does not try again
	APIs     []*Proc
	Workers  []*Proc
	Provider *Provider
	Accounts []*Provider // of each account of the configuration, in their order
	// Addrs are the addresses of the APIs, in their order.
	Addrs []string
	Token string
	Dir   string

	fakes []*Provider // to be closed
	far   *far        // the program's way to Redis; nil: none of its own
}

// Stage starts everything and returns when all of it is ready.
func (l *Lab) Stage(ctx context.Context, c Config) (*Stage, error) {
	s := &Stage{Dir: filepath.Join(l.Dir, c.Name)}
	if err := s.open(ctx, l.Bin, c); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stage) open(ctx context.Context, bin string, c Config) (err error) {
	if c.RedisURL == "" {
		if err := s.openRedis(ctx, c); err != nil {
			return err
		}
	} else if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	if err := s.startProviders(&c); err != nil {
		return err
	}
	bin = cmp.Or(c.Former, bin)
	if err := s.configure(c); err != nil {
		return err
	}
	if err := s.startAPIs(c, bin); err != nil {
		return err
	}
	if err := s.startWorkers(c, bin); err != nil {
		return err
	}
	for _, p := range s.Procs() {
		if err := p.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// startProviders starts the provider, and that of each account.
func (s *Stage) startProviders(c *Config) (err error) {
	serve := func(cfg fake.Config) (*Provider, error) {
		p, err := StartProvider(cfg)
		if err == nil {
			s.fakes = append(s.fakes, p)
		}
		return p, err
	}
	for i, a := range c.Accounts {
		p, err := serve(a.Fake)
		if err != nil {
			return err
		}
		c.Accounts[i].where, s.Accounts = p, append(s.Accounts, p)
	}
	switch {
	case c.Provider != nil:
		s.Provider = c.Provider
	case len(s.Accounts) > 0:
		s.Provider = s.Accounts[0]
	default:
		s.Provider, err = serve(c.Fake)
	}
	return err
}

func (s *Stage) startAPIs(c Config, bin string) error {
	for i := range c.APIs {
		address, err := FreeAddress()
		if err != nil {
			return err
		}
		p, err := s.start(c, bin, "api", i, append([]string{"SLUICE_LISTEN=" + address}, c.API...)...)
		if err != nil {
			return err
		}
		s.APIs, s.Addrs = append(s.APIs, p), append(s.Addrs, address)
	}
	return nil
}

func (s *Stage) startWorkers(c Config, bin string) error {
	for i := range c.Workers {
		own, env := bin, []string(nil)
		if c.Worker != nil {
			own, env = c.Worker(i)
		}
		if !c.OneKey {
			env = append(env, "SLUICE_PROVIDERS__PROVIDER__API_KEY="+Key(i))
		}
		p, err := s.start(c, own, "worker", i, env...)
		if err != nil {
			return err
		}
		s.Workers = append(s.Workers, p)
	}
	return nil
}

// openRedis starts Redis and waits until it answers.
func (s *Stage) openRedis(ctx context.Context, c Config) error {
	data := filepath.Join(s.Dir, "redis")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("a real Redis is needed: %w", err)
	}
	o := &redis.Options{
		Network: "unix", Addr: filepath.Join(s.Dir, "redis.sock"), MaxRetries: -1, DialerRetries: 1,
		// The slow log of a whole run is a long answer.
		ReadTimeout: time.Minute, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	args := []string{"--dir", data, "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--hash-max-ziplist-value", "1024", "--loglevel", "warning"}
	if c.TCP {
		o.Network = "tcp"
		if o.Addr, err = FreeAddress(); err != nil {
			return err
		}
		_, port, _ := net.SplitHostPort(o.Addr)
		args = append(args, "--bind", "127.0.0.1", "--port", port)
	} else {
		if len(o.Addr) > 100 {
			return fmt.Errorf("the folder's path is too long for a unix socket: %s", s.Dir)
		}
		args = append(args, "--port", "0", "--unixsocket", o.Addr)
	}
	s.RDB = redis.NewClient(o)
	s.Redis = &Proc{Name: "redis", Path: path, Args: append(args, c.RedisArgs...), Env: environ(), Log: filepath.Join(s.Dir, "redis.log")}
	if err := s.Redis.Start(); err != nil {
		return err
	}
	return s.AwaitRedis(ctx)
}

// configure writes the configuration and mints the callers' token.
func (s *Stage) configure(c Config) (err error) {
	url := c.RedisURL
	switch {
	case url != "":
	case c.TCP:
		url = "redis://" + s.RDB.Options().Addr + "/0"
	default:
		url = "unix://" + s.RDB.Options().Addr
	}
	if c.RoundTrip > 0 {
		if s.far, err = startFar(s.RDB.Options().Addr, c.RoundTrip); err != nil {
			return err
		}
		url = "redis://" + s.far.addr() + "/0"
	}
	if c.Former == "" {
		c.Settings += "\ndrain_delay: 0s"
	}
	by := "provider: provider"
	if len(c.Accounts) > 0 {
		var list []string
		for _, a := range c.Accounts {
			c.Providers += fmt.Sprintf("  %s: {dialect: anthropic, base_url: \"http://%s\", api_key: %q}\n", a.Name, a.where.Addr, a.Key)
			list = append(list, fmt.Sprintf("{provider: %s, %s}", a.Name, a.Body))
		}
		by = "accounts: [" + strings.Join(list, ", ") + "]"
	}
	text := fmt.Sprintf(`redis: {url: %q}
auth: {hmac_secret: %q}
providers:
  provider: {dialect: anthropic, base_url: "http://%s", api_key: %q}
%spools:
  %s: {%s, models: ["claude-*"], %s}
%stenants:
  default: {submits_per_minute: 0, queued_jobs: 0}
data_dir: %q
%s
`, url, Secret, s.Provider.Addr, Key(-1), c.Providers, Pool, by, c.Pool, c.Pools, s.Dir, c.Settings)
	if err := os.WriteFile(filepath.Join(s.Dir, configFile), []byte(text), 0o600); err != nil {
		return err
	}
	s.Token, err = TokenOf("proof")
	return err
}

// TokenOf mints a tenant's token for the APIs of any stage, with every scope.
func TokenOf(tenant string) (string, error) { return Mint(tenant, "proof", auth.Scopes()...) }

// Mint is TokenOf for somebody who may less.
func Mint(tenant, subject string, scopes ...string) (string, error) {
	return auth.Mint(auth.MintConfig{
		Secret: []byte(Secret), Issuer: "sluice", Audience: "sluice", Subject: subject, Tenant: tenant, Scopes: scopes,
	})
}

// start starts the program in a role, without waiting until it is ready.
func (s *Stage) start(c Config, bin, role string, i int, env ...string) (*Proc, error) {
	ops, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	name, args := fmt.Sprintf("%s-%d", role, i+1), []string(nil)
	if role == "worker" && c.Nice > 0 {
		path, err := exec.LookPath("nice")
		if err != nil {
			return nil, err
		}
		bin, args = path, []string{"-n", strconv.Itoa(c.Nice), bin}
	}
	p := &Proc{
		Name: name, Path: bin, Args: slices.Concat(args, []string{"--config", filepath.Join(s.Dir, configFile)}, c.Flags, []string{role}), Ops: ops,
		Env: slices.Concat(environ(), c.Env, env, []string{"SLUICE_OPS_LISTEN=" + ops}), Log: filepath.Join(s.Dir, name+".log"),
	}
	return p, p.Start()
}

// Procs are the processes of Sluice: the APIs, then the workers.
func (s *Stage) Procs() []*Proc { return slices.Concat(s.APIs, s.Workers) }

// Close ends every child and the provider.
func (s *Stage) Close() error {
	var errs []error
	for _, p := range s.Procs() {
		errs = append(errs, p.Kill())
	}
	if s.far != nil {
		errs = append(errs, s.far.close())
	}
	if s.Redis != nil {
		errs = append(errs, s.Redis.Kill(), s.RDB.Close())
	}
	for _, p := range s.fakes {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// AwaitRedis waits until Redis answers, its data loaded.
func (s *Stage) AwaitRedis(ctx context.Context) error {
	return Until(ctx, 30*time.Second, "redis answers", func(ctx context.Context) (bool, error) {
		// The client complains aloud where there is nobody.
		c, err := net.Dial(s.RDB.Options().Network, s.RDB.Options().Addr)
		if err != nil {
			return false, nil
		}
		return errors.Join(c.Close(), s.RDB.Ping(ctx).Err()) == nil, nil
	})
}

// Info returns the fields of a section of Redis's INFO.
func (s *Stage) Info(ctx context.Context, section string) (map[string]string, error) {
	text, err := s.RDB.Info(ctx, section).Result()
	if err != nil {
		return nil, fmt.Errorf("ask Redis for its %s: %w", section, err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields[name] = value
	}
	return fields, nil
}

// environ is this process's environment without any setting of Sluice.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "SLUICE_") || strings.HasPrefix(e, "ANTHROPIC_") || strings.HasPrefix(e, "OPENAI_")
	})
}

// FreeAddress returns a loopback address that nobody listened on just now.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// Until asks every few milliseconds whether something is so, for at most so
// long, and returns the error that a question ends with.
func Until(ctx context.Context, most time.Duration, what string, ok func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		if yes, err := ok(ctx); yes || err != nil {
			return err
		}
		if err := Wait(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
	}
}

// Wait lets time pass.
func Wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
