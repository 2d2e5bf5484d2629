package redisd

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxSocketPath is the longest path of a unix socket that every system takes:
// 107 bytes on Linux, 103 on macOS.
const maxSocketPath = 103

// childSpec is what it takes to start the child, again and again.
type childSpec struct {
	program string
	argv0   string
	args    []string
	env     []string
	dir     string
	socket  string
}

func (s *Server) startChild(ctx context.Context, c Config, program, data string) error {
	socket, err := socketPath(data, c.RuntimeDir)
	if err != nil {
		return err
	}
	env := c.Env
	if env == nil {
		env = []string{"LC_ALL=C"}
	}
	s.most = cmp.Or(c.MaxMemory, machineMemory("/")/2)
	s.child = childSpec{
		program: program,
		// Debian's redis-tools carries the server under the name of a checking
		// tool; the program decides by the name it was called with.
		argv0:  string(s.kind),
		env:    env,
		dir:    data,
		socket: socket,
		args: []string{
			"--port", "0",
			"--unixsocket", socket, "--unixsocketperm", "700",
			"--dir", data, "--save", "",
			"--appendonly", "yes", "--appendfsync", c.Fsync,
			"--maxmemory", strconv.FormatInt(s.most, 10), "--maxmemory-policy", "noeviction",
			// Records of jobs are small hashes of which some values are longer than the 64
			// bytes up to which Redis packs a hash: half of what they take would be tables.
			// The name is that of Redis 6.2, which later ones read too.
			"--hash-max-ziplist-value", strconv.Itoa(PackedValue),
			"--daemonize", "no", "--logfile", "", "--loglevel", "notice",
			// A crash report quotes the command it died of, which may hold a prompt.
			"--crash-log-enabled", "no",
		},
	}
	s.options.Network, s.options.Addr = "unix", socket
	// A socket that refuses refuses at once; asking five times only hides it.
	s.options.DialerRetries = 1
	if err := evict(ctx, s.log, socket); err != nil {
		return err
	}
	ch, err := spawn(ctx, s.child, s.log)
	if err != nil {
		return err
	}
	s.running = ch
	return nil
}

// supervise starts the child again each time it dies, until ctx ends or Close
// is called.
func (s *Server) supervise(ctx context.Context) {
	delay := firstBackoff
	for {
		s.mu.Lock()
		c := s.running
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-s.closed:
			return
		case <-c.done:
		}
		if c.ran() > steadyAfter {
			delay = firstBackoff
		}
		for {
			s.log.Error("embedded redis stopped; starting it again", "kind", s.kind, "error", c.exit(), "delay", delay)
			select {
			case <-ctx.Done():
				return
			case <-s.closed:
				return
			case <-time.After(delay):
			}
			delay = min(2*delay, maxBackoff)
			err := s.respawn(ctx)
			if err == nil {
				s.log.Info("embedded redis is back", "kind", s.kind)
				break
			}
			if errors.Is(err, errClosed) || ctx.Err() != nil {
				return
			}
			s.log.Error("embedded redis does not start", "kind", s.kind, "error", err)
		}
	}
}

var errClosed = errors.New("the embedded redis is closed")

// respawn starts a child in place of a dead one, unless the server was closed.
func (s *Server) respawn(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	defer func() { cancel(); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-s.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	c, err := spawn(ctx, s.child, s.log)
	if err != nil {
		return err
	}
	s.mu.Lock()
	select {
	case <-s.closed:
		// Close saw the dead child and is not going to stop this one.
		s.mu.Unlock()
		return errors.Join(errClosed, c.stop())
	default:
	}
	s.running = c
	s.mu.Unlock()
	return nil
}

// child is one life of the server.
type child struct {
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process is gone and its output read
	started time.Time
	ended   time.Time // set before done is closed
	err     error     // likewise
	tail    *tail
}

// spawn starts the server and waits until it answers; at the end of ctx or
// after startTimeout it gives up and leaves no process behind.
func spawn(ctx context.Context, spec childSpec, log *slog.Logger) (*child, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c := &child{done: make(chan struct{}), started: time.Now(), tail: new(tail)}
	c.cmd = exec.Command(spec.program, spec.args...)
	c.cmd.Args[0] = spec.argv0
	c.cmd.Env, c.cmd.Dir = spec.env, spec.dir
	c.cmd.Stdout, c.cmd.Stderr = in, in
	c.cmd.SysProcAttr = procAttr()

	read := make(chan struct{})
	go func() {
		defer close(read)
		defer out.Close()
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			c.tail.add(sc.Text())
			log.Debug("embedded redis", "line", sc.Text())
		}
		_, _ = io.Copy(io.Discard, out) // a line too long to scan must not stop the child
	}()
	startErr := make(chan error, 1)
	go func() {
		// The child is told of this process's death through the thread that
		// started it: the thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		err := c.cmd.Start()
		in.Close()
		startErr <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		<-read
		c.ended = time.Now()
	}()
	if err := <-startErr; err != nil {
		<-c.done
		return nil, fmt.Errorf("start %s: %w", spec.program, err)
	}

	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if ping(spec.socket) == nil {
			return c, nil
		}
		select {
		case <-c.done:
			return nil, fmt.Errorf("%s stopped at start: %w", spec.argv0, c.exit())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s did not answer: %w", spec.argv0, context.Cause(ctx)), c.stop())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// ran is how long a dead child lived.
func (c *child) ran() time.Duration { return c.ended.Sub(c.started) }

// exit says how a dead child ended, with the last that it said.
func (c *child) exit() error {
	err := c.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	if last := c.tail.String(); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// stop ends the child in order, or after stopTimeout by force, and waits for it.
// A SIGTERM makes Redis write and sync its append-only file and leave.
func (c *child) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the embedded redis: %w", err)
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(stopTimeout):
	}
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the embedded redis: %w", err)
	}
	<-c.done
	return fmt.Errorf("the embedded redis did not stop within %s and was killed", stopTimeout)
}

// tail keeps the last lines that a child wrote.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if line = strings.TrimSpace(line); line == "" {
		return
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > 5 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, " | ")
}

// socketPath places the socket in dir, or, where that path is too long, under
// a name derived from dir in a folder of this user's in runtimeDir.
func socketPath(dir, runtimeDir string) (string, error) {
	path := filepath.Join(dir, "redis.sock")
	if len(path) <= maxSocketPath {
		return path, nil
	}
	if runtimeDir == "" {
		runtimeDir = os.TempDir()
	}
	folder := filepath.Join(runtimeDir, fmt.Sprintf("sluice-%d", os.Getuid()))
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make a folder for the socket: %w", err)
	}
	info, err := os.Lstat(folder)
	if err != nil {
		return "", fmt.Errorf("the folder for the socket: %w", err)
	}
	if !info.IsDir() || !ours(info) || info.Mode().Perm() != 0o700 {
		return "", fmt.Errorf("the folder for the socket, %s, has to belong to this user alone (mode 0700)", folder)
	}
	sum := sha256.Sum256([]byte(dir))
	path = filepath.Join(folder, hex.EncodeToString(sum[:8])+".sock")
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the path of the socket, %s, is longer than %d bytes: choose a shorter data_dir", path, maxSocketPath)
	}
	return path, nil
}

// evict stops a server that a dead process left behind on the socket. The
// folder's lock is held, so no living process can be its owner. Two servers
// must never write one append-only file: it returns only once the old one has
// closed its socket, which Redis does after its last write.
func evict(ctx context.Context, log *slog.Logger, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	told := false
	for {
		conn, err := net.DialTimeout("unix", socket, time.Second)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
				return nil
			}
			if !errors.Is(err, syscall.EAGAIN) { // a full backlog is a living server
				return fmt.Errorf("look for a server left behind: %w", err)
			}
		} else {
			if !told {
				told = true
				log.Warn("a redis-server was left behind by an earlier process; stopping it")
			}
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			if _, err := io.WriteString(conn, "SHUTDOWN\r\n"); err == nil {
				_, _ = conn.Read(make([]byte, 64)) // an error is the answer: the connection ends
			}
			conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a redis-server left behind on %s does not stop: end it by hand", socket)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ping asks the server whether it answers and has loaded its data. It does not
// use the client library, whose dialler waits and logs.
func ping(socket string) error {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	if answer := string(buf[:n]); !strings.HasPrefix(answer, "+PONG") {
		return errors.New(strings.TrimSpace(answer))
	}
	return nil
}
