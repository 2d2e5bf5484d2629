package redisd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/sluicehq/sluice/tasks/redisd"
	"github.com/sluicehq/sluice/tasks/redistest"
)

// ownerDir makes the test binary play a process that starts a server in that
// folder, says so, and waits to be killed.
const ownerDir = "REDISD_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		s, err := redisd.Start(context.Background(), redisd.Config{Dir: dir})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println("ready", s.Options().Addr)
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // held open by the test
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// server returns the path of redis-server, or skips.
func server(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not on PATH")
		}
		t.Skip("redis-server is not on PATH")
	}
	return path
}

// folder is a data folder with a path short enough for a socket.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "redisd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, c redisd.Config) *redisd.Server {
	t.Helper()
	s, err := redisd.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func client(t *testing.T, s *redisd.Server) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(s.Options())
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// run supervises s until the test ends.
func run(t *testing.T, s *redisd.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func pid(t *testing.T, rdb *redis.Client) int {
	t.Helper()
	text, err := rdb.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "process_id:")
	n, err := strconv.Atoi(strings.TrimSpace(rest[:strings.IndexByte(rest, '\r')]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var eventually = redistest.Until

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestChildIsPrivateDurableAndGoneAfterClose(t *testing.T) {
	server(t)
	dir := filepath.Join(folder(t), "new")
	s := start(t, redisd.Config{Dir: dir})
	if s.Kind() != redisd.Redis || !s.Kind().Durable() || s.Notice() != "" {
		t.Errorf("kind %q, durable %v, notice %q; want redis-server, true, none", s.Kind(), s.Kind().Durable(), s.Notice())
	}
	rdb := client(t, s)
	if err := rdb.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "port": "0", "save": "",
	} {
		if got, err := rdb.ConfigGet(t.Context(), name).Result(); err != nil || got[name] != want {
			t.Errorf("%s = %q, %v; want %q", name, got[name], err, want)
		}
	}
	if found, err := redisd.Inspect(t.Context(), rdb, false); err != nil || len(found.Loses)+len(found.Notices) != 0 {
		t.Errorf("Inspect of our own server: %+v, %v; want nothing", found, err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "redis"): 0o700, s.Options().Addr: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %v", path, info, err, want)
		}
	}
	p := pid(t, rdb)
	_ = rdb.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(p) {
		t.Errorf("the child %d is alive after Close", p)
	}

	again := start(t, redisd.Config{Dir: dir, Fsync: "everysec"})
	if got, err := client(t, again).Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("after a restart: %q, %v; want v", got, err)
	}
}

func TestKilledChildComesBackWithItsData(t *testing.T) {
	server(t)
	s := start(t, redisd.Config{Dir: folder(t)})
	run(t, s)
	rdb := client(t, s)
	for round := range 3 {
		if err := rdb.Set(t.Context(), "k", round, 0).Err(); err != nil {
			t.Fatal(err)
		}
		p := pid(t, rdb)
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another child answers", func() bool { return !alive(p) && rdb.Ping(t.Context()).Err() == nil })
		if got, err := rdb.Get(t.Context(), "k").Int(); err != nil || got != round {
			t.Errorf("round %d: got %d, %v", round, got, err)
		}
	}
}

func TestRunStopsTheChildWhenItsContextEnds(t *testing.T) {
	server(t)
	s := start(t, redisd.Config{Dir: folder(t)})
	p := pid(t, client(t, s))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v; want nil", err)
	}
	if alive(p) {
		t.Errorf("the child %d is alive after Run", p)
	}
}

func TestCloseWhileTheChildIsDead(t *testing.T) {
	server(t)
	dir := folder(t)
	s := start(t, redisd.Config{Dir: dir})
	run(t, s)
	p := pid(t, client(t, s))
	if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	// Nothing may hold the folder or the socket now.
	again := start(t, redisd.Config{Dir: dir})
	if err := client(t, again).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestSecondInstanceIsRefused(t *testing.T) {
	server(t)
	dir := folder(t)
	first := start(t, redisd.Config{Dir: dir})
	_, err := redisd.Start(t.Context(), redisd.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "another sluice is using it") || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Start: %v; want a refusal that names the folder", err)
	}
	if err := client(t, first).Ping(t.Context()).Err(); err != nil {
		t.Errorf("the first one, after the second was refused: %v", err)
	}
}

func TestServerLeftBehindIsStoppedAndItsDataTaken(t *testing.T) {
	program := server(t)
	dir := folder(t)
	s := start(t, redisd.Config{Dir: dir})
	socket := s.Options().Addr
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Dir(socket)
	orphan := exec.Command(program, "--port", "0", "--unixsocket", socket, "--dir", data, "--save", "", "--appendonly", "yes")
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { defer close(gone); _ = orphan.Wait() }()
	t.Cleanup(func() { _ = orphan.Process.Kill(); <-gone })
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	defer rdb.Close()
	eventually(t, "the orphan answers", func() bool { return rdb.Set(t.Context(), "k", "orphan", 0).Err() == nil })

	again := start(t, redisd.Config{Dir: dir})
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the orphan is still alive")
	}
	if got, err := client(t, again).Get(t.Context(), "k").Result(); err != nil || got != "orphan" {
		t.Errorf("got %q, %v; want what the orphan was told", got, err)
	}
}

func TestNothingIsLostWhenTheOwnerIsKilled(t *testing.T) {
	server(t)
	dir := folder(t)
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerDir+"="+dir)
	in, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	socket, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		_ = owner.Process.Kill()
		_ = owner.Wait()
		t.Fatalf("the owner said %q, %v", line, err)
	}
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	defer rdb.Close()
	if err := rdb.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	child := pid(t, rdb)
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()

	s := start(t, redisd.Config{Dir: dir})
	if alive(child) && pid(t, client(t, s)) == child {
		t.Error("the killed owner's child was taken over; want one of our own")
	}
	if got, err := client(t, s).Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("got %q, %v; want v", got, err)
	}
}

func TestKindIsNeverSwitchedSilently(t *testing.T) {
	program := server(t)
	empty := t.TempDir()

	t.Run("a server's jobs are not left behind for memory", func(t *testing.T) {
		dir := folder(t)
		if err := start(t, redisd.Config{Dir: dir}).Close(); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", empty)
		_, err := redisd.Start(t.Context(), redisd.Config{Dir: dir, AllowMemory: true})
		if err == nil || !strings.Contains(err.Error(), "kept by redis-server") || !strings.Contains(err.Error(), "install it again") {
			t.Errorf("got %v; want a refusal that says what to do", err)
		}
	})
	t.Run("nor for the other server", func(t *testing.T) {
		dir := folder(t)
		if err := os.WriteFile(filepath.Join(dir, "redis-kind"), []byte("valkey-server\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, c := range []redisd.Config{{Dir: dir}, {Dir: dir, Program: program}} {
			if _, err := redisd.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "kept by valkey-server") {
				t.Errorf("program %q: got %v; want a refusal", c.Program, err)
			}
		}
	})
	t.Run("what was used before wins over PATH's order", func(t *testing.T) {
		dir, bin := folder(t), t.TempDir()
		if err := os.Symlink(program, filepath.Join(bin, "valkey-server")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(program, filepath.Join(bin, "redis-server")); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin)
		if err := os.WriteFile(filepath.Join(dir, "redis-kind"), []byte("valkey-server\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		// A Redis under another name reads its own name and starts as a server.
		if s := start(t, redisd.Config{Dir: dir}); s.Kind() != redisd.Valkey {
			t.Errorf("kind %q; want valkey-server", s.Kind())
		}
	})
	t.Run("memory kept nothing, so a server may follow, aloud", func(t *testing.T) {
		dir := folder(t)
		if err := os.WriteFile(filepath.Join(dir, "redis-kind"), []byte("memory\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := start(t, redisd.Config{Dir: dir})
		if s.Kind() != redisd.Redis || !strings.Contains(s.Notice(), "in place of the in-process one") {
			t.Errorf("kind %q, notice %q", s.Kind(), s.Notice())
		}
	})
	t.Run("an unknown mark is refused", func(t *testing.T) {
		dir := folder(t)
		if err := os.WriteFile(filepath.Join(dir, "redis-kind"), []byte("other\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := redisd.Start(t.Context(), redisd.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), `"other"`) {
			t.Errorf("got %v; want a refusal", err)
		}
	})
}

func TestMemoryStandsInAndSaysSo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	if _, err := redisd.Start(t.Context(), redisd.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "redis-server") {
		t.Fatalf("memory not allowed: %v; want an error that names redis-server", err)
	}
	s := start(t, redisd.Config{Dir: dir, AllowMemory: true})
	run(t, s)
	if s.Kind() != redisd.Memory || s.Kind().Durable() || !strings.Contains(s.Notice(), "do not survive a restart") {
		t.Errorf("kind %q, durable %v, notice %q", s.Kind(), s.Kind().Durable(), s.Notice())
	}
	rdb := client(t, s)
	if err := errors.Join(rdb.Set(t.Context(), "k", "v", 0).Err(), rdb.Set(t.Context(), "gone", "v", 50*time.Millisecond).Err()); err != nil {
		t.Fatal(err)
	}
	if got, err := rdb.Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("got %q, %v; want v", got, err)
	}
	eventually(t, "the key expires by the wall clock", func() bool { return errors.Is(rdb.Get(t.Context(), "gone").Err(), redis.Nil) })

	stranger := redis.NewClient(&redis.Options{Addr: s.Options().Addr})
	defer stranger.Close()
	if err := stranger.Ping(t.Context()).Err(); err == nil {
		t.Error("a client without the password was answered")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "redis-kind")); err != nil || strings.TrimSpace(string(b)) != "memory" {
		t.Errorf("remembered %q, %v; want memory", b, err)
	}
}

func TestServerUnderTheNameOfItsCheckingTool(t *testing.T) {
	program := server(t)
	bin := t.TempDir()
	if err := os.Symlink(program, filepath.Join(bin, "redis-check-rdb")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	s := start(t, redisd.Config{Dir: folder(t)})
	if s.Kind() != redisd.Redis {
		t.Errorf("kind %q; want redis-server", s.Kind())
	}
	if err := client(t, s).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestLongFolderPutsTheSocketElsewhere(t *testing.T) {
	server(t)
	dir := filepath.Join(folder(t), strings.Repeat("long", 30))
	s := start(t, redisd.Config{Dir: dir, RuntimeDir: folder(t)})
	if addr := s.Options().Addr; len(addr) > 103 || strings.HasPrefix(addr, dir) {
		t.Errorf("socket %s; want a short path outside the folder", addr)
	}
	if err := client(t, s).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestSocketFolderOfSomebodyElseIsRefused(t *testing.T) {
	server(t)
	runtimeDir := folder(t)
	if err := os.Mkdir(filepath.Join(runtimeDir, fmt.Sprintf("sluice-%d", os.Getuid())), 0o777); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(folder(t), strings.Repeat("long", 30))
	if _, err := redisd.Start(t.Context(), redisd.Config{Dir: dir, RuntimeDir: runtimeDir}); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("got %v; want a refusal", err)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	server(t)
	dir := folder(t)
	// An append-only folder that is a file.
	if err := os.MkdirAll(filepath.Join(dir, "redis"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "redis", "appendonlydir"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := redisd.Start(t.Context(), redisd.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "append") {
		t.Errorf("got %v; want the server's own words", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "redis-kind")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a server that never came up was remembered: %v", err)
	}
}

func TestInspectNamesEachShortcoming(t *testing.T) {
	limited := func(aof string, args ...string) redistest.Options {
		return redistest.Options{AOF: aof, Args: append([]string{"--maxmemory", "100mb"}, args...)}
	}
	cases := map[string]struct {
		opt     redistest.Options
		several bool
		evicts  string
		want    []string
	}{
		"safe":         {limited("always"), false, "", nil},
		"no maxmemory": {redistest.Options{AOF: "always"}, false, "", []string{"no maxmemory"}},
		"no AOF":       {limited(""), false, "", []string{"appendonly no"}},
		"everysec":     {limited("everysec"), false, "", []string{"appendfsync everysec"}},
		"eviction":     {limited("always", "--maxmemory-policy", "allkeys-lru"), false, "allkeys-lru", []string{"allkeys-lru"}},
		"both":         {limited("", "--maxmemory-policy", "volatile-ttl"), false, "volatile-ttl", []string{"appendonly no", "volatile-ttl"}},
		"no CONFIG":    {limited("always", "--rename-command", "CONFIG", ""), false, "", []string{"does not say how it syncs"}},
		"no replicas":  {limited("always"), true, "", []string{"min-replicas-to-write 0"}},
		"replicas":     {limited("always", "--min-replicas-to-write", "1"), true, "", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			facts, err := redisd.Inspect(t.Context(), redistest.Start(t, c.opt).Client(), c.several)
			if err != nil {
				t.Fatal(err)
			}
			if want := c.evicts; facts.Evicts != want {
				t.Errorf("evicts by %q; want %q", facts.Evicts, want)
			}
			got := append(facts.Loses, facts.Notices...)
			if len(got) != len(c.want) {
				t.Fatalf("got %q; want %d", got, len(c.want))
			}
			for i, want := range c.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("got %q; want it to hold %q", got[i], want)
				}
			}
		})
	}
}

// oldRedis answers INFO as an old server does, and nothing else.
func oldRedis(t *testing.T, info string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				switch strings.ToLower(strings.TrimSpace(line)) {
				case "info":
					fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(info), info)
				case "hello", "client", "config":
					fmt.Fprint(conn, "-ERR unknown command\r\n")
				}
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestInspectNamesAnOldVersion(t *testing.T) {
	addr := oldRedis(t, "# Server\r\nredis_version:6.0.16\r\naof_enabled:0\r\nmaxmemory_policy:noeviction\r\n")
	rdb := redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, PoolSize: 1})
	facts, err := redisd.Inspect(t.Context(), rdb, false)
	got := facts.Loses
	_ = rdb.Close() // before the listener's goroutine is waited for
	if err != nil || len(got) != 2 || !strings.Contains(got[0], "6.0.16 is older than 6.2") {
		t.Errorf("got %q, %v; want the version and the missing AOF", got, err)
	}
}

func TestInspectOfNobodyIsAnError(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(t.TempDir(), "none"), DialerRetries: 1, MaxRetries: -1})
	defer rdb.Close()
	if _, err := redisd.Inspect(t.Context(), rdb, false); err == nil {
		t.Error("no error")
	}
}
