// Package redistest gives a test a real Redis of its own: a redis-server child
// on a unix socket in the test's temporary folder, gone when the test ends.
//
// At a desk without redis-server the test is skipped; where the environment
// variable CI is set, that is a failure. The package is for tests only.
package redistest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options describe the server. The zero value keeps nothing on disk.
type Options struct {
	// AOF is the appendfsync policy, "always" or "everysec"; empty switches the AOF off.
	AOF string
	// Args are further command line arguments, as in "--maxmemory", "4mb".
	Args []string
}

// Server is a running redis-server.
type Server struct {
	tb   testing.TB
	dir  string
	opt  Options
	path string // the program
	cmd  *exec.Cmd
	done chan struct{}
}

// New starts a server and returns a client of it, both closed when the test ends.
func New(tb testing.TB) *redis.Client {
	tb.Helper()
	return Start(tb, Options{}).Client()
}

// Start starts a server that stops when the test ends.
func Start(tb testing.TB, opt Options) *Server {
	tb.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal("redis-server is not on PATH; the tests need a real one (Debian: redis-server)")
		}
		tb.Skip("redis-server is not on PATH")
	}
	// A socket's path has to be short (107 bytes on Linux); tb.TempDir is not.
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, dir: dir, opt: opt, path: path}
	tb.Cleanup(func() {
		s.Kill()
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove %s: %v", dir, err)
		}
	})
	s.Start()
	return s
}

// Socket returns the path of the server's unix socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, "s") }

// URL returns the server's address as Sluice's redis.url takes it.
func (s *Server) URL() string { return "unix://" + s.Socket() }

// Client returns a new client, closed when the test ends.
func (s *Server) Client() *redis.Client {
	s.tb.Helper()
	rdb := redis.NewClient(&redis.Options{
		Network: "unix", Addr: s.Socket(),
		DialerRetries:            1, // a socket that refuses refuses at once; asking five times only takes time
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	s.tb.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Start starts the server again after Kill, with the data that its AOF kept.
func (s *Server) Start() {
	s.tb.Helper()
	args := []string{"--port", "0", "--unixsocket", s.Socket(), "--dir", s.dir, "--save", "", "--loglevel", "warning"}
	if s.opt.AOF != "" {
		args = append(args, "--appendonly", "yes", "--appendfsync", s.opt.AOF)
	}
	cmd := exec.Command(s.path, append(args, s.opt.Args...)...)
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.tb.Fatalf("start redis-server: %v", err)
	}
	s.cmd, s.done = cmd, make(chan struct{})
	go func() {
		defer close(s.done)
		_ = cmd.Wait()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for !s.ping() {
		select {
		case <-s.done:
			s.tb.Fatalf("redis-server stopped at start: %s", out)
		case <-ctx.Done():
			s.tb.Fatal("redis-server did not answer within 20 s")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Kill ends the server as kill -9 does and waits until it is gone.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Errorf("kill redis-server: %v", err)
	}
	<-s.done
	s.cmd = nil
	_ = os.Remove(s.Socket())
}

// ping reports whether the server answers and has loaded its data.
func (s *Server) ping() bool {
	conn, err := net.DialTimeout("unix", s.Socket(), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	buf := make([]byte, 64)
	n, _ := conn.Read(buf)
	return strings.HasPrefix(string(buf[:n]), "+PONG")
}
