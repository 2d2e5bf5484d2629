package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sluicehq/sluice/api/auth"
)

// limits are the pool's, as sluice.yaml has them.
type limits struct {
	requests, input, output float64 // a minute; 0: no limit of tokens
	burst, concurrency      int
}

// wide is an allowance that never binds here: 100,000 requests a second.
func wide() limits { return limits{requests: 6_000_000, burst: 100_000, concurrency: 64} }

// setup says which processes a stack has.
type setup struct {
	aof      string // appendfsync of Redis
	provider string // address of the fake provider
	limits   limits
	workers  int
}

// stack is Sluice as separate processes on a Redis of its own.
type stack struct {
	b        *bench
	dir      string
	api      string // address
	token    string
	secret   string
	redis    *child
	rdb      *redis.Client
	server   *child
	workers  []*child
	children []*child // in the order of their start
}

// child is a process that this one started and alone will end.
type child struct {
	name string
	cmd  *exec.Cmd
	ops  string // address of its metrics and profiles, if it has them
	log  string
	done chan struct{} // closed once it has ended
}

// newStack starts Redis, the API and the workers and waits until each is
// ready. The caller closes it, also after an error.
func (b *bench) newStack(ctx context.Context, s setup) (*stack, error) {
	dir, err := os.MkdirTemp(b.dir, "stack")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	st := &stack{b: b, dir: dir, secret: rand.Text() + rand.Text()}
	return st, st.start(ctx, s)
}

func (st *stack) start(ctx context.Context, s setup) error {
	var err error
	st.token, err = auth.Mint(auth.MintConfig{
		Secret: []byte(st.secret), Issuer: "sluice", Audience: "sluice", Subject: "bench", Tenant: "bench", Scopes: auth.Scopes(),
	})
	if err != nil {
		return err
	}
	redisAddr, err := freeAddress()
	if err != nil {
		return err
	}
	_, redisPort, _ := net.SplitHostPort(redisAddr)
	st.redis, err = st.child("redis", "redis-server", nil,
		"--bind", "127.0.0.1", "--port", redisPort, "--dir", st.dir, "--save", "", "--appendonly", "yes", "--appendfsync", s.aof,
		// A rewrite would fall into one round and not into another.
		"--auto-aof-rewrite-percentage", "0", "--loglevel", "warning")
	if err != nil {
		return err
	}
	st.rdb = redis.NewClient(&redis.Options{
		// The slow log of a whole run is a long answer.
		Addr: redisAddr, ReadTimeout: time.Minute, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	err = st.ready(ctx, st.redis, func(ctx context.Context) bool { return st.rdb.Ping(ctx).Err() == nil })
	if err != nil {
		return err
	}

	if st.api, err = freeAddress(); err != nil {
		return err
	}
	config := filepath.Join(st.dir, "sluice.yaml")
	text := fmt.Sprintf(`listen: %s
redis: {url: "redis://%s/0"}
auth: {hmac_secret: %s}
providers:
  bench: {dialect: anthropic, base_url: "http://%s", api_key: %s}
pools:
  bench:
    provider: bench
    models: ["*"]
    limits: {requests_per_minute: %.0f, input_tokens_per_minute: %.0f, output_tokens_per_minute: %.0f, request_burst: %d, concurrency: %d}
tenants:
  default: {submits_per_minute: 0, queued_jobs: 0}
data_dir: %s
`, st.api, redisAddr, st.secret, s.provider, providerKey, s.limits.requests, s.limits.input, s.limits.output, s.limits.burst, s.limits.concurrency, st.dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if st.server, err = st.sluice(ctx, config, "api"); err != nil {
		return err
	}
	for range s.workers {
		w, err := st.sluice(ctx, config, "worker")
		if err != nil {
			return err
		}
		st.workers = append(st.workers, w)
	}
	return nil
}

// sluice starts a role and waits until it is ready.
func (st *stack) sluice(ctx context.Context, config, role string) (*child, error) {
	ops, err := freeAddress()
	if err != nil {
		return nil, err
	}
	name := role
	if role == "worker" {
		name += strconv.Itoa(len(st.workers) + 1)
	}
	c, err := st.child(name, st.b.sluice, []string{"SLUICE_OPS_LISTEN=" + ops}, "--config", config, "--log-level", "warn", role)
	if err != nil {
		return nil, err
	}
	c.ops = ops
	return c, st.ready(ctx, c, func(ctx context.Context) bool {
		resp, err := get(ctx, "http://"+ops+"/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// child starts a process with next to no environment.
func (st *stack) child(name, path string, environ []string, args ...string) (*child, error) {
	c := &child{name: name, log: filepath.Join(st.dir, name+".log"), done: make(chan struct{})}
	out, err := os.Create(c.log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	c.cmd = exec.Command(path, args...)
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = st.dir, out, out
	c.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + st.dir}, environ...)
	// An interrupt from the keyboard is for this process, which stops the others.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(c.done)
		_ = c.cmd.Wait() // how it ended is in its log
	}()
	st.children = append(st.children, c)
	return c, nil
}

// ready waits until a child answers.
func (st *stack) ready(ctx context.Context, c *child, answers func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := until(ctx, func() (bool, error) {
		select {
		case <-c.done:
			return false, errors.New("it ended")
		default:
			return answers(ctx), nil
		}
	})
	if err != nil {
		text, _ := os.ReadFile(c.log)
		return fmt.Errorf("wait for %s: %w\n%s", c.name, err, text[max(0, len(text)-2000):])
	}
	return nil
}

// close ends every child, the last first, and waits for it. A verbose run is
// told what each of them logged.
func (st *stack) close() {
	if st == nil {
		return
	}
	if st.rdb != nil {
		_ = st.rdb.Close()
	}
	for i := len(st.children) - 1; i >= 0; i-- {
		c := st.children[i]
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-c.done:
		case <-time.After(10 * time.Second):
			_ = c.cmd.Process.Kill()
			<-c.done
		}
		if text, err := os.ReadFile(c.log); err == nil && len(text) > 0 && st.b.verbose {
			fmt.Fprintf(os.Stderr, "--- %s said:\n%s", c.name, text)
		}
	}
	if err := os.RemoveAll(st.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// freeAddress returns a loopback address that nobody listened on just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

// counters are the sums of some metrics over all processes of a stack, by name.
type counters map[string]float64

const (
	acquires   = "sluice_gate_acquires_total"
	redisCalls = "sluice_redis_calls_total"
	ended      = "sluice_jobs_ended_total"
)

// scrape reads the counters of every process; apiCalls are the API's Redis calls alone.
func (st *stack) scrape(ctx context.Context) (sum counters, apiCalls float64, err error) {
	sum = counters{}
	for _, c := range st.children {
		if c.ops == "" {
			continue
		}
		resp, err := get(ctx, "http://"+c.ops+"/metrics")
		if err != nil {
			return nil, 0, fmt.Errorf("read the metrics of %s: %w", c.name, err)
		}
		found, err := sumOf(resp.Body, acquires, redisCalls, ended)
		resp.Body.Close()
		if err != nil {
			return nil, 0, fmt.Errorf("read the metrics of %s: %w", c.name, err)
		}
		for name, v := range found {
			sum[name] += v
		}
		if c == st.server {
			apiCalls = found[redisCalls]
		}
	}
	return sum, apiCalls, nil
}

// sumOf adds up the series of each of the named counters.
func sumOf(metrics io.Reader, names ...string) (counters, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(metrics)
	if err != nil {
		return nil, err
	}
	out := counters{}
	for _, name := range names {
		for _, m := range families[name].GetMetric() {
			out[name] += m.GetCounter().GetValue()
		}
	}
	return out, nil
}

// commands is how many commands Redis has run, those inside scripts included.
func (st *stack) commands(ctx context.Context) (float64, error) {
	text, err := st.rdb.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, fmt.Errorf("read Redis's command counts: %w", err)
	}
	total := 0.0
	for line := range strings.Lines(text) {
		if _, rest, ok := strings.Cut(line, ":calls="); ok {
			number, _, _ := strings.Cut(rest, ",")
			n, err := strconv.ParseFloat(number, 64)
			if err != nil {
				return 0, fmt.Errorf("read Redis's command counts: %w", err)
			}
			total += n
		}
	}
	return total, nil
}

// memory is Redis's used_memory in bytes.
func (st *stack) memory(ctx context.Context) (float64, error) {
	text, err := st.rdb.Info(ctx, "memory").Result()
	if err != nil {
		return 0, fmt.Errorf("read Redis's memory: %w", err)
	}
	for line := range strings.Lines(text) {
		if number, ok := strings.CutPrefix(line, "used_memory:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(number), 64)
		}
	}
	return 0, errors.New("read Redis's memory: there is no used_memory")
}

// ticksPerSecond is Linux's USER_HZ, in which /proc counts for every program.
const ticksPerSecond = 100

// cpu is the processor time that a child has used, to a hundredth of a second.
func (c *child) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", c.name, err)
	}
	// The name, in parentheses, may hold spaces; utime and stime are the 14th
	// and 15th fields of all.
	_, rest, _ := bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(rest))
	if len(fields) < 13 {
		return 0, fmt.Errorf("processor time of %s: %d fields", c.name, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", c.name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// profile takes a processor profile of every Sluice process during the next d,
// when a folder for profiles was given. The function returned waits for them.
func (st *stack) profile(ctx context.Context, title string, d time.Duration) (wait func()) {
	if st.b.profiles == "" {
		return func() {}
	}
	done := make(chan error)
	n := 0
	for _, c := range st.children {
		if c.ops == "" {
			continue
		}
		n++
		go func() { done <- c.profile(ctx, filepath.Join(st.b.profiles, title+"-"+c.name+".pprof"), d) }()
	}
	return func() {
		for range n {
			if err := <-done; err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}

func (c *child) profile(ctx context.Context, path string, d time.Duration) error {
	resp, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", c.ops, max(1, int(d.Seconds()))))
	if err != nil {
		return fmt.Errorf("profile %s: %w", c.name, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("profile %s: %w", c.name, err)
	}
	return nil
}
