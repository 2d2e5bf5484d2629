// Package rig sets up Sluice as an operator would, for proofs and benchmarks:
// a redis-server, API processes and workers, each a child process, and the
// fake provider in the process that asks.
//
// It listens on loopback alone, and signals no process but its own children,
// by their process id. It never says whether what it ran did well.
package rig

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Build compiles the program into dir and returns its path. The working
// directory has to be inside the module.
func Build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "sluice")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/sluicehq/sluice/cmd/sluice").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build sluice: %w\n%s", err, out)
	}
	return bin, nil
}

// Config says what a Stage is made of.
type Config struct {
	Bin           string // of the program
	Dir           string // for the configuration, logs and Redis's data; made if missing
	APIs, Workers int
	// RedisArgs are further arguments of redis-server, which writes its
	// append-only file at each command unless they say otherwise.
	RedisArgs []string
	// Pool is the body of the one pool's configuration but for its provider and
	// models, in YAML's flow style, such as "limits: {requests_per_minute: 60}".
	Pool string
	Fake upstream.FakeConfig
	// OneKey has all workers use one provider key. Otherwise each has its own,
	// by which the provider tells their calls apart: for proofs in which the
	// provider sets no limits.
	OneKey bool
	// Worker returns each worker's program and what is added to its environment.
	// Nil: Bin, and nothing.
	Worker func(i int) (bin string, env []string)
}

// Model is the model whose jobs the pool serves.
const Model = "claude-sonnet-4-5"

// Pool is the pool's name.
const Pool = "proof"

// Stage is a running set of processes.
type Stage struct {
	Redis   *Proc
	APIs    []*Proc
	Workers []*Proc
	Fake    *upstream.Fake
	// FakeURL is the address of the provider.
	FakeURL string
	// URLs are the addresses of the APIs, in their order.
	URLs  []string
	Token string

	socket string
	server *http.Server
	served chan struct{}
}

// Open starts everything and returns when all of it is ready.
func Open(ctx context.Context, c Config) (*Stage, error) {
	s := &Stage{}
	if err := s.open(ctx, c); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stage) open(ctx context.Context, c Config) error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "redis"), 0o700); err != nil {
		return err
	}
	s.socket = filepath.Join(c.Dir, "redis.sock")
	if len(s.socket) > 100 {
		return fmt.Errorf("the folder's path is too long for a unix socket: %s", c.Dir)
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("a real Redis is needed: %w", err)
	}
	s.Redis = &Proc{Name: "redis", Path: path, Log: filepath.Join(c.Dir, "redis.log"), Args: append([]string{
		"--port", "0", "--unixsocket", s.socket, "--dir", filepath.Join(c.Dir, "redis"), "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning",
	}, c.RedisArgs...)}
	s.Redis.Env = environ()
	if err := s.Redis.Start(); err != nil {
		return err
	}
	if err := s.AwaitRedis(ctx); err != nil {
		return err
	}

	if s.Fake, err = upstream.NewFake(c.Fake); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.FakeURL = "http://" + l.Addr().String()
	s.server, s.served = &http.Server{Handler: s.Fake, ReadHeaderTimeout: 10 * time.Second}, make(chan struct{})
	go func() {
		defer close(s.served)
		_ = s.server.Serve(l)
	}()

	secret := strings.Repeat("proof secret ", 4)
	file := filepath.Join(c.Dir, "sluice.yaml")
	config := fmt.Sprintf(`redis: {url: "unix://%s"}
auth: {hmac_secret: %q}
providers:
  provider: {dialect: anthropic, base_url: %q, api_key: %q}
pools:
  %s: {provider: provider, models: ["claude-*"], %s}
tenants:
  default: {submits_per_minute: 0, queued_jobs: 0}
data_dir: %q
`, s.socket, secret, s.FakeURL, Key(-1), Pool, c.Pool, c.Dir)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	s.Token, err = auth.Mint(auth.MintConfig{
		Secret: []byte(secret), Issuer: "sluice", Audience: "sluice", Subject: "proof", Tenant: "proof",
		Scopes: auth.Scopes(), TTL: time.Hour,
	})
	if err != nil {
		return err
	}
	role := func(bin, name, kind string, env ...string) (*Proc, error) {
		ops, err := freeAddress()
		if err != nil {
			return nil, err
		}
		p := &Proc{
			Name: name, Path: bin, Args: []string{"--config", file, kind}, Log: filepath.Join(c.Dir, name+".log"), Ops: ops,
			Env: append(environ(), append(env, "SLUICE_OPS_LISTEN="+ops)...),
		}
		return p, p.Start()
	}
	for i := range c.APIs {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		p, err := role(c.Bin, fmt.Sprintf("api-%d", i+1), "api", "SLUICE_LISTEN="+address)
		if p != nil {
			s.APIs, s.URLs = append(s.APIs, p), append(s.URLs, "http://"+address)
		}
		if err != nil {
			return err
		}
	}
	for i := range c.Workers {
		bin, env := c.Bin, []string(nil)
		if c.Worker != nil {
			bin, env = c.Worker(i)
		}
		if !c.OneKey {
			env = append(env, "SLUICE_PROVIDERS__PROVIDER__API_KEY="+Key(i))
		}
		p, err := role(bin, fmt.Sprintf("worker-%d", i+1), "worker", env...)
		if p != nil {
			s.Workers = append(s.Workers, p)
		}
		if err != nil {
			return err
		}
	}
	for _, p := range append(append([]*Proc(nil), s.APIs...), s.Workers...) {
		if err := p.AwaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Key is the provider key of a worker, by its index; -1 is the one that all share.
func Key(worker int) string { return fmt.Sprintf("proof-key-%d", worker+1) }

// Digest is how the fake provider names a key.
func Digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6])
}

// PromptDigest is how the fake provider names a prompt.
func PromptDigest(prompt string) string {
	sum := sha256.Sum256([]byte(prompt))
	return hex.EncodeToString(sum[:])
}

// AwaitRedis waits until Redis answers, its data loaded.
func (s *Stage) AwaitRedis(ctx context.Context) error {
	return until(ctx, 30*time.Second, "redis answers", func() bool {
		reply, err := s.RedisCommand("PING")
		return err == nil && strings.HasPrefix(reply, "+PONG")
	})
}

// RedisCommand sends one inline command and returns the beginning of the reply.
func (s *Stage) RedisCommand(line string) (string, error) {
	conn, err := net.DialTimeout("unix", s.socket, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(line + "\r\n")); err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// Socket is the path of Redis's socket.
func (s *Stage) Socket() string { return s.socket }

// Close ends every child and the provider.
func (s *Stage) Close() error {
	var errs []error
	for _, p := range append(append([]*Proc(nil), s.APIs...), s.Workers...) {
		errs = append(errs, p.Kill())
	}
	if s.Redis != nil {
		errs = append(errs, s.Redis.Kill())
	}
	if s.server != nil {
		s.Fake.Close()
		errs = append(errs, s.server.Close())
		<-s.served
	}
	return errors.Join(errs...)
}

// environ is this process's environment without any setting of Sluice.
func environ() []string {
	var out []string
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); {
		case strings.HasPrefix(name, "SLUICE_"), strings.HasPrefix(name, "ANTHROPIC_"), strings.HasPrefix(name, "OPENAI_"):
		default:
			out = append(out, e)
		}
	}
	return out
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// until polls a condition each 10 ms, for at most so long.
func until(ctx context.Context, most time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
