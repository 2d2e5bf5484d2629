package main_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	main "github.com/sluicehq/sluice/cmd/sluice"
)

// pack is what docker-compose.yml starts, run here by its own command lines, with its environments.
type pack struct {
	t      *testing.T
	file   main.Composition
	dir    string // where Redis and the passwords lie
	server *exec.Cmd
}

// redis starts Redis as compose does, but on a socket.
func (p *pack) redis() {
	p.t.Helper()
	args := append([]string{}, p.file.Services["redis"].Command...)
	script, err := filepath.Abs("../../deploy/redis.sh")
	if err != nil || args[1] != "/redis.sh" {
		p.t.Fatalf("Redis runs %q, %v", args, err)
	}
	args[1] = script
	p.server = exec.Command(args[0], append(args[1:], "--port", "0", "--unixsocket", p.socket(), "--dir", p.dir)...)
	p.server.Env = []string{"PATH=" + p.dir + ":" + os.Getenv("PATH"), "REDIS_USERS=" + p.dir}
	said := &stream{}
	p.server.Stdout, p.server.Stderr = said, said
	if err := p.server.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.kill)
	health := strings.NewReplacer("$$", "$", "/run/users", p.dir, "redis-cli", "redis-cli -s "+p.socket()).Replace(p.file.Services["redis"].Healthcheck.Test[1])
	eventually(p.t, "Redis is healthy", func() bool {
		out, err := exec.CommandContext(p.t.Context(), "sh", "-c", health).Output()
		return err == nil && strings.TrimSpace(string(out)) == "PONG"
	})
}

func (p *pack) kill() {
	if p.server != nil {
		_ = p.server.Process.Kill()
		_ = p.server.Wait()
		p.server = nil
	}
}

func (p *pack) socket() string { return filepath.Join(p.dir, "s") }

// environ is a role's environment, with the paths of this machine in place of those in its container.
func (p *pack) environ(role string) (out []string) {
	p.t.Helper()
	paths := []string{"redis://" + role + "@redis:6379/0", "unix://" + role + "@" + p.socket(), "/run/redis/", p.dir + "/" + role + "/", "/data/", p.dir + "/data/"}
	for _, name := range p.file.Services[role].Secrets {
		paths = append(paths, "/run/secrets/"+name, p.file.Secrets[name].File)
	}
	for k, v := range p.file.Environ(role) {
		out = append(out, k+"="+strings.NewReplacer(paths...).Replace(v))
	}
	return out
}

// dial is a client of Redis as a user; "" gives no name and no password.
func (p *pack) dial(user string) *redis.Client {
	p.t.Helper()
	o := &redis.Options{Network: "unix", Addr: p.socket(), Username: user, MaxRetries: -1, DialerRetries: 1}
	if user != "" {
		password, err := os.ReadFile(filepath.Join(p.dir, user, "password"))
		if err != nil || len(password) != 64 {
			p.t.Fatalf("the password of %s has %d characters, %v", user, len(password), err)
		}
		o.Password = string(password)
	}
	c := redis.NewClient(o)
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// The compose file's own command lines and environments serve: Redis has a user for each role, with a
// password that nobody gave it and that it keeps over a restart; a job runs with secrets that lie in files;
// a role's user may do no more than Sluice does; and a password that is changed is taken up by who runs.
func TestWhatTheComposeFileStartsServes(t *testing.T) {
	t.Parallel()
	main.Needs(t, "redis-server", "redis-cli")
	dir, err := os.MkdirTemp("", "pack") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, text := range map[string]string{"hmac": secret, "key": "key-canary-anthropic\n", "docker-entrypoint.sh": "#!/bin/sh\nexec \"$@\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	provider := newProvider(t)
	p := &pack{t: t, dir: dir}
	p.file, err = main.Compose(t, map[string]string{
		"SLUICE_AUTH__HMAC_SECRET_FILE": dir + "/hmac", "ANTHROPIC_API_KEY_FILE": dir + "/key", "ANTHROPIC_BASE_URL": provider.URL, "SLUICE_SEAL": "off",
	})
	if err != nil {
		t.Fatal(err)
	}
	p.redis()
	s := &system{t: t, provider: provider, transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(s.transport.CloseIdleConnections)
	s.environ = p.environ("api")
	s.startAPI()
	s.environ = p.environ("worker")
	worker := s.startWorker()
	c := s.as(t, "acme")
	if f := c.final(c.submit(prompt("claude-x", "first"))); f.str("status") != "succeeded" {
		t.Errorf("a job: %s", f.body)
	}
	for _, process := range []*process{s.api, worker} {
		eventually(t, "Redis is known to keep jobs", func() bool {
			return strings.Contains(string(c.do("GET", "http://"+process.ops()+"/metrics", "").body), "\nsluice_redis_durable 1\n")
		})
	}
	p.refuses()

	before, err := os.ReadFile(filepath.Join(dir, "worker", "password"))
	if err = errors.Join(err, os.Remove(filepath.Join(dir, "api", "password"))); err != nil {
		t.Fatal(err)
	}
	if err := p.server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = p.server.Wait()
	p.redis()
	if after, err := os.ReadFile(filepath.Join(dir, "worker", "password")); err != nil || string(after) != string(before) {
		t.Errorf("the worker's password is another after a restart, %v", err)
	}
	var id string
	eventually(t, "a job is taken in again", func() bool {
		r := c.do("POST", "/v1/jobs", prompt("claude-x", "second"))
		id = r.str("id")
		return r.status == http.StatusAccepted
	})
	if f := c.final(id); f.str("status") != "succeeded" {
		t.Errorf("a job with another password: %s", f.body)
	}
}

// refuses holds that nobody without a password is let in, and that a role reaches its own keys alone.
func (p *pack) refuses() {
	p.t.Helper()
	ctx := p.t.Context()
	if err := p.dial("").Ping(ctx).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		p.t.Errorf("without a password: %v", err)
	}
	for _, role := range []string{"api", "worker"} {
		rdb := p.dial(role)
		if err := rdb.Get(ctx, "sluice:nothing").Err(); !errors.Is(err, redis.Nil) {
			p.t.Errorf("%s reads its own: %v", role, err)
		}
		for _, command := range [][]any{
			{"FLUSHALL"}, {"KEYS", "*"}, {"CONFIG", "SET", "appendonly", "no"}, {"ACL", "LIST"}, {"SHUTDOWN"}, {"MONITOR"}, {"REPLICAOF", "NO", "ONE"},
			{"GET", "other:key"}, {"SET", "other:key", "1"}, {"PUBLISH", "other", "1"}, {"EVAL", "return redis.call('GET', 'other:key')", "0"}, {"MODULE", "LIST"},
		} {
			if err := rdb.Do(ctx, command...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") && !strings.Contains(err.Error(), "can't access") {
				p.t.Errorf("%s: %v: %v", role, command, err)
			}
		}
	}
}
