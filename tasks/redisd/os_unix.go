//go:build unix

package redisd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// lock is a file lock, which the system frees when its process dies.
type lock struct{ f *os.File }

func acquire(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another sluice is using it: stop that one, give this one a data_dir of its own, or share an external Redis (redis.url)")
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return &lock{f}, nil
}

func (l *lock) release() { _ = l.f.Close() }

// ours reports whether the file belongs to the user this process runs as.
func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
