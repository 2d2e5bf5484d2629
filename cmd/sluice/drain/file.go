package drain

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

var errLocked = errors.New("locked by another process")

// lockFile opens a file, makes it when there is none, and locks it until it is
// closed or the process dies. A file that is replaced takes the lock of the one
// before with it into nowhere, so what was locked has to be what the name means.
func lockFile(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(name); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// lock locks an open file, or returns errLocked. A file system that knows no
// locks is no reason to refuse: the run's folder is locked as well.
func lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return nil
		}
	}
}

// release closes a locked file. The lock is given up by itself: a process that is
// just being started beside us has a copy of the file for a moment.
func release(f *os.File) error {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return f.Close()
}

// replaceFile puts content in the place of a file, whole or not at all, and on
// disk when it returns. The new file is open, and locked before it has the name.
func replaceFile(name string, content [][]byte) (*os.File, error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*os.File, error) {
		return nil, errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
	}
	if err := lock(tmp); err != nil {
		return fail(err)
	}
	if at, err := os.Stat(name); err == nil {
		if err := tmp.Chmod(at.Mode().Perm()); err != nil {
			return fail(err)
		}
	}
	w := bufio.NewWriterSize(tmp, 1<<20)
	for _, part := range content {
		if _, err := w.Write(part); err != nil {
			return fail(err)
		}
	}
	if err := errors.Join(w.Flush(), tmp.Sync()); err != nil {
		return fail(err)
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return fail(err)
	}
	if err := syncFolder(filepath.Dir(name)); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	return tmp, nil
}

// replaceLocked puts content in the place of a locked file, which is let go of.
func replaceLocked(name string, old *os.File, content [][]byte) (*os.File, error) {
	f, err := replaceFile(name, content)
	if err != nil {
		return old, err
	}
	return f, release(old)
}

// syncFolder makes a file's new name last.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// realPath is a file's name, absolute and through no symbolic link.
func realPath(name string) (string, error) {
	path, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// jsonLine is a value as a line of JSON, in which <, > and & stand as they are.
func jsonLine(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return b.Bytes(), err
}
