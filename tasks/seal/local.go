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
)

// localName is the name of the master key that a data_dir has.
const localName = "local"

// Local returns the master key of a folder, which it makes with the first call: the
// file seal.key, for this user alone, flushed before anything is sealed with it. Of two
// processes that make it at once both get the one that came first.
func Local(dir string) (Master, error) {
	path := filepath.Join(dir, "seal.key")
	for range 2 {
		text, err := os.ReadFile(path)
		switch {
		case err == nil:
			key, err := ParseKey(strings.TrimSpace(string(text)))
			if err != nil {
				return Master{}, fmt.Errorf("read the sealing key: %s %w: what it sealed opens with a copy of the file as it was", path, err)
			}
			return Master{localName, key}, nil
		case !errors.Is(err, fs.ErrNotExist):
			return Master{}, fmt.Errorf("read the sealing key: %w", err)
		}
		if err := makeLocal(dir, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return Master{}, fmt.Errorf("make a sealing key: %w", err)
		}
	}
	return Master{}, fmt.Errorf("read the sealing key: %s comes and goes", path)
}

// makeLocal writes a new key to path, whole or not at all; fs.ErrExist: one is there.
func makeLocal(dir, path string) (err error) {
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
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // a rename would take the place of another's
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
