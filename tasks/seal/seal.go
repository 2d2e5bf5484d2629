// Package seal keeps secret what lies at rest: prompts, answers, metadata and secrets of
// tenants, in Redis and wherever bodies and files lie.
//
// Each tenant has a [Key] of its own, made at random. It lies beside the record, wrapped by
// a master key of the [Ring], which only the configuration has. So a copy of Redis opens
// nothing without the master key; a new master key means that each tenant's key is wrapped
// anew and nothing else; and a tenant whose key is deleted is gone from every copy of its
// values, except where somebody has the wrapped key and the master key as well.
//
// It promises that
//   - what is sealed tells its length, its tenant's key, and what else one process sealed about
//     then, and nothing more: the same value sealed twice looks different;
//   - [Key.Open] returns what was sealed for just that purpose (of that tenant, job and
//     field), or an error: a value that was changed, cut or put in another's place never
//     opens;
//   - no error holds a key or any of a value.
//
// It asks no network and writes no file but that of [Local].
package seal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// A sealed value is
//
//	0xFF          which begins no UTF-8, and so no JSON: what is not sealed is told from it
//	0x01          the version of all that follows
//	8 bytes       the id of the key
//	24 bytes      the nonce, random (values that are sealed in a row may begin alike, see xaes.go)
//	the rest      XAES-256-GCM of the value, with its tag of 16 bytes
//
// The additional data are the first ten bytes and then each part of what the value is
// for, behind its length in bytes as a big-endian 64-bit number.
const (
	mark      = 0xff
	version   = 1
	idSize    = 8
	headSize  = 2 + idSize
	tagSize   = 16
	masterLen = 32

	// Overhead is how many bytes a sealed value is longer than the value.
	Overhead = headSize + nonceSize + tagSize
)

// ErrOpen says that a value is not what was sealed: it was changed, or was sealed for
// something else.
var ErrOpen = errors.New("a sealed value was changed, or stands in another's place")

// ForeignError says that a value was sealed under another key than the one that is there:
// its tenant's key was deleted since, and nothing opens it any more.
type ForeignError struct{ Key string }

// Error names the key by its id.
func (e *ForeignError) Error() string {
	return "the tenant's key " + e.Key + " was deleted: what it has sealed cannot be opened any more"
}

// Key seals and opens the values of one tenant. Its methods may be called at once from anywhere.
type Key struct {
	id    [idSize]byte
	value *xaes
	names []byte
}

// keyOf is the key of a secret; each use has a key of its own that follows from it.
func keyOf(id [idSize]byte, secret []byte) (*Key, error) {
	value, err := hkdf.Expand(sha256.New, secret, "sluice seal 1: values", masterLen)
	if err != nil {
		return nil, err
	}
	names, err := hkdf.Expand(sha256.New, secret, "sluice seal 1: names", sha256.Size)
	if err != nil {
		return nil, err
	}
	x, err := newXAES(value)
	if err != nil {
		return nil, err
	}
	return &Key{id: id, value: x, names: names}, nil
}

// ID is the key's name in 16 hexadecimal digits, which is no secret.
func (k *Key) ID() string { return hex.EncodeToString(k.id[:]) }

// Seal returns a value sealed for a purpose: what it is, whose and of what, as in "result",
// the tenant and the id of the job. The same parts in the same order open it.
func (k *Key) Seal(value []byte, purpose ...string) []byte {
	out := k.head(len(value))
	return k.value.sealNext(out, value, additional(out, purpose))
}

// SealSame is [Key.Seal] with a nonce that follows from the value and its purpose (HMAC): the
// same value sealed again for the same purpose is the same, byte for byte.
func (k *Key) SealSame(value []byte, purpose ...string) []byte {
	h := hmac.New(sha256.New, k.names)
	_, _ = h.Write(additional([]byte{mark, byte(len(purpose))}, purpose)) // no name begins so: it begins with a length
	_, _ = h.Write(value)
	nonce := h.Sum(nil)[:nonceSize]
	out := k.head(len(value))
	return k.value.seal(append(out, nonce...), nonce, value, additional(out, purpose))
}

// head begins a sealed value of so many bytes, for which there is room behind it.
func (k *Key) head(size int) []byte {
	return append(append(make([]byte, 0, Overhead+size), mark, version), k.id[:]...)
}

// Open returns what was sealed for a purpose. A value of another key is a [*ForeignError],
// any other that does not open is [ErrOpen].
func (k *Key) Open(sealed []byte, purpose ...string) ([]byte, error) {
	switch {
	case !Sealed(sealed) || len(sealed) < Overhead:
		return nil, ErrOpen
	case string(sealed[2:headSize]) != string(k.id[:]):
		return nil, &ForeignError{hex.EncodeToString(sealed[2:headSize])}
	}
	value, err := k.value.open(sealed[headSize:headSize+nonceSize], sealed[headSize+nonceSize:], additional(sealed[:headSize], purpose))
	if err != nil {
		return nil, ErrOpen
	}
	return value, nil
}

// Name is a keyed hash (HMAC-SHA-256) of some parts, in 43 characters that stand in any
// key of Redis: equal parts of a tenant have equal names, and who has not the key
// can neither make one nor try what one is of.
func (k *Key) Name(parts ...string) string {
	h := hmac.New(sha256.New, k.names)
	_, _ = h.Write(additional(nil, parts))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Sealed reports whether a value looks sealed. No text does, and no JSON.
func Sealed[T []byte | string](value T) bool {
	return len(value) > 1 && value[0] == mark && value[1] == version
}

// additional writes parts behind what stands first, so that no two lists of parts are alike.
func additional(first []byte, parts []string) []byte {
	size := len(first)
	for _, p := range parts {
		size += 8 + len(p)
	}
	out := append(make([]byte, 0, size), first...)
	for _, p := range parts {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// Wrapped is a tenant's key as it lies beside the record.
type Wrapped struct {
	ID     string // of the key
	Master string // the name of the master key that wraps it
	Key    []byte // wrapped
}

// wrap wraps the secret of a tenant's key.
func wrap(m *master, tenant, id string, secret []byte) []byte {
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce)
	return m.x.seal(nonce, nonce, secret, additional([]byte{version}, []string{"key of a tenant", tenant, id, m.name}))
}

// unwrap returns the secret that wrap was given.
func unwrap(m *master, tenant string, w Wrapped) ([]byte, error) {
	if len(w.Key) != nonceSize+masterLen+tagSize {
		return nil, ErrOpen
	}
	secret, err := m.x.open(w.Key[:nonceSize], w.Key[nonceSize:], additional([]byte{version}, []string{"key of a tenant", tenant, w.ID, m.name}))
	if err != nil {
		return nil, fmt.Errorf("the master key %q is another than the one of that name that wrapped the tenant's key: %w", m.name, ErrOpen)
	}
	return secret, nil
}
