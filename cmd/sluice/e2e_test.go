package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// patience bounds every wait for another process.
const patience = time.Minute

// child is the program as a process of its own.
type child struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	mu     sync.Mutex
	out    bytes.Buffer
	change chan struct{} // closed at the next write
}

// raceFound reports whether the race detector of a process has written a report. It
// says so at once, whatever the process comes to later.
func raceFound(said string) bool { return strings.Contains(said, "WARNING: DATA RACE") }

// startChild starts a command; its streams are joined.
func startChild(dir string, environ []string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{}), change: make(chan struct{})}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell starts it
	c.cmd.Dir, c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = dir, environ, c, c
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.ended)
		_ = c.cmd.Wait()
	}()
	return c, nil
}

// Write keeps what the process says.
func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.change)
	c.change = make(chan struct{})
	return c.out.Write(p)
}

func (c *child) said() (string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String(), c.change
}

// await returns the first match of a pattern in what the process says.
func (c *child) await(pattern *regexp.Regexp) ([]string, error) {
	late := time.After(patience)
	for {
		said, change := c.said()
		if m := pattern.FindStringSubmatch(said); m != nil {
			return m, nil
		}
		select {
		case <-change:
		case <-c.ended:
			if said, _ = c.said(); !pattern.MatchString(said) {
				return nil, fmt.Errorf("ended without saying %s:\n%s", pattern, said)
			}
		case <-late:
			return nil, fmt.Errorf("said no %s:\n%s", pattern, said)
		}
	}
}

// end sends a signal and returns the exit code, -1 for one that died of it.
func (c *child) end(sig os.Signal) (int, error) {
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.ended
		said, _ := c.said()
		return 0, fmt.Errorf("did not end after %s:\n%s", sig, said)
	}
	if said, _ := c.said(); raceFound(said) {
		return 0, fmt.Errorf("a data race:\n%s", said)
	}
	return c.cmd.ProcessState.ExitCode(), nil
}

// exported are the variables that dev tells its user to set.
func (c *child) exported() map[string]string {
	said, _ := c.said()
	out := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)=(.*)$`).FindAllStringSubmatch(said, -1) {
		out[m[1]] = m[2]
	}
	return out
}

// TestEndToEnd runs testdata/e2e: whole processes on a real Redis.
func TestEndToEnd(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{AOF: "always"})
	example := project(t, "examples/prompts.jsonl")
	type children = map[string]*child
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "e2e"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			onPath(t, e)
			e.Setenv("SLUICE_LISTEN", "127.0.0.1:0")
			e.Setenv("SLUICE_OPS_LISTEN", "127.0.0.1:0")
			e.Setenv("EXTERNAL_REDIS", redis.URL())
			running := children{}
			e.Values["children"] = running
			e.Defer(func() {
				for _, c := range running {
					_ = c.cmd.Process.Kill()
					<-c.ended
				}
			})
			return os.WriteFile(filepath.Join(e.WorkDir, "prompts.jsonl"), []byte(example), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			// begin NAME PATTERN sluice [args...] starts a process and waits until it says
			// PATTERN. $NAME is its first group; what it exports is set, too.
			"begin": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 3 || args[2] != "sluice" {
					ts.Fatalf("usage: begin NAME PATTERN sluice [args...]")
				}
				environ := os.Environ()[:0:0]
				for _, k := range []string{"PATH", "HOME", "TMPDIR", "GORACE"} {
					environ = append(environ, k+"="+ts.Getenv(k))
				}
				for _, kv := range strings.Fields(ts.Getenv("PASS")) {
					environ = append(environ, kv+"="+ts.Getenv(kv))
				}
				c, err := startChild(ts.MkAbs("."), environ, append([]string{Sluice(t)}, args[3:]...)...)
				ts.Check(err)
				ts.Value("children").(children)[args[0]] = c
				m, err := c.await(regexp.MustCompile("(?m)" + args[1]))
				ts.Check(err)
				ts.Setenv(args[0], m[len(m)-1])
				for k, v := range c.exported() {
					ts.Setenv(k, v)
				}
			},
			// end NAME INT|TERM|KILL CODE [PATTERN] ends a process that begin has started;
			// what it said is in NAME.log.
			"end": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 3 {
					ts.Fatalf("usage: end NAME INT|TERM|KILL CODE [PATTERN]")
				}
				running := ts.Value("children").(children)
				c, sig := running[args[0]], map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
				code, err := c.end(sig)
				ts.Check(err)
				delete(running, args[0])
				said, _ := c.said()
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".log"), []byte(said), 0o600))
				if strconv.Itoa(code) != args[2] {
					ts.Fatalf("%s ended with %d; want %s:\n%s", args[0], code, args[2], said)
				}
				if len(args) > 3 && !regexp.MustCompile("(?m)"+args[3]).MatchString(said) {
					ts.Fatalf("%s did not say %s:\n%s", args[0], args[3], said)
				}
			},
			// calls URL N: a fake provider has had N calls; with N+, waits for as many.
			"calls": func(ts *testscript.TestScript, neg bool, args []string) {
				atLeast := strings.HasSuffix(args[1], "+")
				want, err := strconv.ParseInt(strings.TrimSuffix(args[1], "+"), 10, 64)
				ts.Check(err)
				got, err := fakeCalls(args[0], func(n int64) bool { return n >= want || !atLeast })
				ts.Check(err)
				if !atLeast && got != want {
					ts.Fatalf("%d calls; want %d", got, want)
				}
			},
			// capture NAME PATTERN sets $NAME to what the last command printed.
			"capture": func(ts *testscript.TestScript, neg bool, args []string) {
				m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
				if m == nil {
					ts.Fatalf("no %s in what was printed", args[1])
				}
				ts.Setenv(args[0], m[len(m)-1])
			},
		},
	})
}

// fakeCalls asks a fake provider how many calls it has had until enough says so.
func fakeCalls(url string, enough func(int64) bool) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/fake/stats", nil)
		if err != nil {
			return 0, err
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		var stats struct {
			Calls int64 `json:"calls"`
		}
		if err = errors.Join(err, json.Unmarshal(b, &stats)); err != nil {
			return 0, err
		}
		if enough(stats.Calls) {
			return stats.Calls, nil
		}
		select {
		case <-ctx.Done():
			return stats.Calls, fmt.Errorf("only %d calls: %w", stats.Calls, ctx.Err())
		case <-tick.C:
		}
	}
}
