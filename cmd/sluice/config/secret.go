package config

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// minSecret is the fewest bytes of a secret for HS256 (RFC 7518 section 3.2).
const minSecret = 32

// secretFile holds, in data_dir, the secret that Sluice made for itself.
const secretFile = "hmac_secret"

// Secret returns the configured secret, or the one kept in data_dir, or nil
// when there is neither.
func (c *Config) Secret() ([]byte, error) {
	if c.Auth.HMACSecret != "" {
		return []byte(c.Auth.HMACSecret), nil
	}
	if c.DataDir == "" {
		return nil, nil
	}
	name := filepath.Join(c.DataDir, secretFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the kept secret: %w", err)
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) < minSecret {
		return nil, fmt.Errorf("the kept secret %s has fewer than %d bytes: remove it to have another made", name, minSecret)
	}
	return b, nil
}

// EnsureSecret returns what Secret does; when there is none it makes one and
// keeps it in data_dir, for this user alone. Of several processes that do so at
// once, all return the same.
func (c *Config) EnsureSecret() ([]byte, error) {
	b, err := c.Secret()
	if err != nil || b != nil {
		return b, err
	}
	if c.DataDir == "" {
		return nil, errors.New("auth.hmac_secret is needed, since there is no data_dir to keep one in")
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("keep a secret: %w", err)
	}
	// Written whole, then linked to its name, which fails for all but one.
	tmp, err := os.CreateTemp(c.DataDir, secretFile+".*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("keep a secret: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = fmt.Fprintln(tmp, rand.Text()+rand.Text()) // 52 characters, 260 bits
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("keep a secret: %w", err)
	}
	if err := os.Link(tmp.Name(), filepath.Join(c.DataDir, secretFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("keep a secret: %w", err)
	}
	return c.Secret()
}
