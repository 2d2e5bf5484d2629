package seal

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// LocalName is the name of the master key that a data_dir has.
const LocalName = "local"

// LocalFile is the name of the file that has it.
const LocalFile = "seal.key"

// Local returns the master key of a folder, which it makes with the first call: the
// file seal.key, for this user alone, flushed before anything is sealed with it. Of two
// processes that make it at once both get the one that came first.
func Local(dir string) (Master, error) { return local(dir, os.Link) }

// local is Local with what gives a file its name, as [os.Link] does where the file system has
// hard links.
func local(dir string, link func(from, to string) error) (Master, error) {
	path := filepath.Join(dir, LocalFile)
	for range 2 {
		text, err := written(path)
		switch {
		case err == nil:
			key, err := ParseKey(strings.TrimSpace(text))
			if err != nil {
				return Master{}, fmt.Errorf("read the sealing key: %s %w: what it sealed opens with a copy of the file as it was", path, err)
			}
			return Master{LocalName, key}, nil
		case !errors.Is(err, fs.ErrNotExist):
			return Master{}, fmt.Errorf("read the sealing key: %w", err)
		}
		if err := makeLocal(dir, path, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return Master{}, fmt.Errorf("make a sealing key: %w", err)
		}
	}
	return Master{}, fmt.Errorf("read the sealing key: %s comes and goes", path)
}

// writtenWithin is how long another process may take to write a key where there are no hard links.
const writtenWithin = time.Second

// written is the text of a file as soon as its line is whole, or what there is of it after a while.
func written(path string) (string, error) {
	for until := time.Now().Add(writtenWithin); ; <-time.After(5 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err != nil || strings.HasSuffix(string(b), "\n") || len(b) >= base64.StdEncoding.EncodedLen(masterLen) || time.Now().After(until) {
			return string(b), err
		}
	}
}

// makeLocal writes a new key to path, whole or not at all; fs.ErrExist: one is there.
func makeLocal(dir, path string, link func(from, to string) error) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "seal-*.tmp") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	key := make([]byte, masterLen)
	_, _ = rand.Read(key)
	line := base64.StdEncoding.EncodeToString(key) + "\n"
	if err := put(f, line); err != nil {
		return err
	}
	switch err := link(f.Name(), path); { // a rename would take the place of another's
	case errors.Is(err, fs.ErrExist):
		return err
	case err != nil: // the file system has no hard links
		own, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := put(own, line); err != nil {
			return errors.Join(err, os.Remove(path)) // nobody has sealed with it yet
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// put writes a line to a file, and closes that when it is on the disk.
func put(f *os.File, line string) error {
	_, err := f.WriteString(line)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
