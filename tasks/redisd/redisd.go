// Package redisd is the embedded Redis of a single machine: a redis-server (or
// valkey-server) found on the machine, run as a supervised child on a unix
// socket, with an append-only file, so that a crash of the child, of this
// process or of both loses nothing that was acknowledged. Where no server is
// installed and the caller allows it, an in-process Redis stands in, which
// keeps nothing over a restart and says so.
//
// One process at a time owns a folder; a second one is refused. The kind of
// server is remembered in the folder and jobs are never left behind silently
// by a change of it. The package never listens on a network address that
// others may use, never evicts a key and never writes outside its folder, but
// for the socket when the folder's path is too long to hold one.
package redisd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Kind is what answers the socket.
type Kind string

// The kinds of embedded Redis.
const (
	Redis  Kind = "redis-server"
	Valkey Kind = "valkey-server"
	Memory Kind = "memory" // in this process; nothing survives it
)

// Durable reports whether data outlives the process.
func (k Kind) Durable() bool { return k == Redis || k == Valkey }

// PackedValue is up to how many bytes of a value the embedded Redis packs a hash.
const PackedValue = 1024

// Config says where the server keeps its data and which program it is.
type Config struct {
	// Dir holds the data and the remembered kind. It is made, with mode 0700,
	// when it does not exist. Required.
	Dir string
	// Program is the server's path or name. Empty searches PATH for
	// redis-server, valkey-server and, as some distributions name the same
	// program, redis-check-rdb; what is remembered in Dir comes first.
	Program string
	// Fsync is Redis's appendfsync: "always" or "everysec". Empty means
	// "always": an acknowledged write survives a loss of power.
	Fsync string
	// MaxMemory is how many bytes of memory the server takes at most; then it refuses
	// what makes more. 0 means half of what the machine, or the container, has.
	MaxMemory int64
	// AllowMemory permits the in-process Redis when no server is found. False
	// makes that an error.
	AllowMemory bool
	// RuntimeDir takes the socket when its path under Dir would pass the
	// system's limit. A folder of mode 0700 is made in it. Empty means the
	// system's folder for temporary files.
	RuntimeDir string
	// Env is the child's environment. Nil means none but LC_ALL=C: the child
	// has no use for this process's keys.
	Env []string
	// Log takes what the supervisor does; the child's own lines come at debug
	// level. Nil discards it.
	Log *slog.Logger
}

// The times of the supervisor.
const (
	startTimeout = 60 * time.Second // a large append-only file takes a while to load
	stopTimeout  = 15 * time.Second // then the child is killed; the file on disk is whole even so
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	steadyAfter  = 30 * time.Second // a child that ran this long starts over with the first backoff
)

// Server is a running embedded Redis.
type Server struct {
	kind    Kind
	log     *slog.Logger
	notices []string
	options redis.Options
	lock    *lock
	most    int64 // bytes of a child

	child  childSpec // unset for Memory
	memory *memory   // nil for a child

	mu      sync.Mutex
	running *child        // the child of the moment; nil between two
	closed  chan struct{} // closed by the first Close
	done    chan struct{} // closed when Close has finished
	err     error         // what Close came to
}

// Start takes the folder, starts the server and returns once it answers and
// has loaded its data. The caller runs Run, or at least calls Close.
//
// It is an error when another process owns the folder, when no server is found
// and AllowMemory is false, or when the folder's data belongs to a kind that is
// not here any more; each error says what to do.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Dir == "" {
		return nil, errors.New("embedded redis: no folder given")
	}
	if c.Fsync == "" {
		c.Fsync = "always"
	}
	if c.Fsync != "always" && c.Fsync != "everysec" {
		return nil, fmt.Errorf("embedded redis: fsync %q is neither always nor everysec", c.Fsync)
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	data := filepath.Join(dir, "redis")
	if err := private(dir, data); err != nil {
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	lock, err := acquire(filepath.Join(data, "lock"))
	if err != nil {
		return nil, fmt.Errorf("embedded redis: folder %s: %w", dir, err)
	}
	s := &Server{log: log, lock: lock, closed: make(chan struct{}), done: make(chan struct{})}
	if err := s.start(ctx, c, dir, data); err != nil {
		lock.release()
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, c Config, dir, data string) error {
	kindFile := filepath.Join(dir, "redis-kind")
	kept, err := readKind(kindFile)
	if err != nil {
		return err
	}
	program, kind, err := find(c.Program, kept)
	if err != nil {
		return err
	}
	if kind == Memory && !c.AllowMemory && kept == "" {
		return errors.New("neither redis-server nor valkey-server is on PATH: install one (Debian: redis-server), or name an external Redis in redis.url")
	}
	if kept.Durable() && kind != kept {
		return fmt.Errorf("the jobs in %s were kept by %s, which is not on PATH: install it again, or move %s and %s away to start with none",
			dir, kept, data, kindFile)
	}
	if kind == Memory && !c.AllowMemory {
		return errors.New("no redis-server on PATH, and an in-process one is not allowed here: install redis-server, or name an external Redis in redis.url")
	}
	s.kind = kind
	if kept == Memory && kind.Durable() {
		s.notices = append(s.notices, fmt.Sprintf("the embedded Redis is now %s in place of the in-process one, which kept nothing: jobs survive a restart from here on", kind))
	}
	if kind == Memory {
		s.notices = append(s.notices, "no redis-server on PATH: jobs live in this process and do not survive a restart; install redis-server, or name an external Redis in redis.url")
		s.memory, err = startMemory(&s.options)
	} else {
		err = s.startChild(ctx, c, program, data)
	}
	if err != nil {
		return err
	}
	s.options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	// The kind is written last: a server that never came up leaves no mark.
	if err := writeKind(kindFile, kind); err != nil {
		return errors.Join(err, s.stop())
	}
	return nil
}

// Notice returns what an operator should be told about this Redis, or "". It
// is for the caller to say; the server does not log it.
func (s *Server) Notice() string { return strings.Join(s.notices, "; ") }

// Durable reports whether what the server is told survives this process.
func (s *Server) Durable() bool { return s.kind.Durable() }

// MaxMemory is how many bytes the server takes at most beside this process; 0 in it.
func (s *Server) MaxMemory() int64 { return s.most }

// Options returns how to reach the server, a fresh copy each time.
func (s *Server) Options() *redis.Options {
	o := s.options
	return &o
}

// Run keeps the server alive until ctx ends: a child that dies is started
// again, with the data it had, after a delay of 0.1 to 5 seconds. Then it
// closes the server and returns nil, or what went wrong with the stop. Whatever
// uses the server has to have ended before ctx does.
func (s *Server) Run(ctx context.Context) error {
	if s.memory != nil {
		select {
		case <-ctx.Done():
		case <-s.closed:
		}
	} else {
		s.supervise(ctx)
	}
	return s.Close()
}

// Close stops the server in order: what it acknowledged is on disk when Close
// returns. It may be called more than once and beside Run.
func (s *Server) Close() error {
	s.mu.Lock()
	select {
	case <-s.closed:
		s.mu.Unlock()
		<-s.done
		return s.err
	default:
		close(s.closed)
	}
	s.mu.Unlock()
	s.err = s.stop()
	s.lock.release()
	close(s.done)
	return s.err
}

func (s *Server) stop() error {
	if s.memory != nil {
		s.memory.stop()
		return nil
	}
	s.mu.Lock()
	c := s.running
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.stop()
}

// private makes dir and data, and makes sure that data is this user's alone.
func private(dir, data string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(data, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(data)
	if err != nil {
		return err
	}
	if !info.IsDir() || !ours(info) {
		return fmt.Errorf("%s is not a folder of this user", data)
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(data, 0o700)
	}
	return nil
}

func readKind(file string) (Kind, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the remembered kind: %w", err)
	}
	k := Kind(strings.TrimSpace(string(b)))
	if k != Redis && k != Valkey && k != Memory {
		return "", fmt.Errorf("%s holds %q, which is none of redis-server, valkey-server and memory", file, string(k))
	}
	return k, nil
}

func writeKind(file string, k Kind) error {
	tmp := file + ".new"
	if err := os.WriteFile(tmp, []byte(string(k)+"\n"), 0o600); err != nil {
		return fmt.Errorf("remember the kind: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("remember the kind: %w", err)
	}
	return nil
}

// find returns the server's program, or Memory when there is none. What was
// used before wins over what stands earlier on PATH.
func find(program string, kept Kind) (string, Kind, error) {
	if program != "" {
		path, err := exec.LookPath(program)
		if err != nil {
			return "", "", fmt.Errorf("the Redis program: %w", err)
		}
		kind := Redis
		if strings.Contains(filepath.Base(path), "valkey") {
			kind = Valkey
		}
		if kept.Durable() && kept != kind {
			return "", "", fmt.Errorf("the jobs were kept by %s, and %s is %s: give the former, or another folder", kept, path, kind)
		}
		return path, kind, nil
	}
	type candidate struct {
		name string
		kind Kind
	}
	candidates := []candidate{
		{"redis-server", Redis}, {"valkey-server", Valkey},
		{"redis-check-rdb", Redis}, {"valkey-check-rdb", Valkey},
	}
	for _, preferred := range []bool{true, false} {
		for _, c := range candidates {
			if (c.kind == kept) != preferred {
				continue
			}
			if path, err := exec.LookPath(c.name); err == nil {
				return path, c.kind, nil
			}
		}
	}
	return "", Memory, nil
}
