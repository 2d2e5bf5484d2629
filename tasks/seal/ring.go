package seal

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// Master is a master key by its name.
type Master struct {
	Name string
	Key  []byte // 32 bytes
}

// ParseKey reads a master key as a configuration has it: 32 bytes in base64. The error
// holds none of it.
func ParseKey(text string) ([]byte, error) {
	for _, form := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if key, err := form.DecodeString(text); err == nil {
			if len(key) != masterLen {
				return nil, fmt.Errorf("has %d bytes and not %d", len(key), masterLen)
			}
			return key, nil
		}
	}
	return nil, errors.New("is not base64")
}

// MissingError says that the master key of a name is not in the ring.
type MissingError struct{ Master string }

// Error names the master key, which the configuration has to list.
func (e *MissingError) Error() string {
	return fmt.Sprintf("the master key %q is not listed", e.Master)
}

type master struct {
	name  string
	print string // of its bytes: two keys of one name are told apart by it
	x     *xaes
}

// Ring holds the master keys: all of them unwrap, the last wraps. Its methods may be
// called at once from anywhere.
type Ring struct {
	keys atomic.Pointer[[]*master]
}

// New returns a ring of master keys, one at least, whose names are told apart.
func New(keys []Master) (*Ring, error) {
	r := &Ring{}
	return r, r.Set(keys)
}

// Set puts other master keys in the place of those that are there, as when their files
// were changed. After an error nothing has changed.
func (r *Ring) Set(keys []Master) error {
	if len(keys) == 0 {
		return errors.New("a ring has one master key at least")
	}
	list := make([]*master, 0, len(keys))
	for _, k := range keys {
		switch {
		case k.Name == "":
			return errors.New("a master key has no name")
		case len(k.Key) != masterLen:
			return fmt.Errorf("the master key %q has %d bytes and not %d", k.Name, len(k.Key), masterLen)
		case slices.ContainsFunc(list, func(m *master) bool { return m.name == k.Name }):
			return fmt.Errorf("two master keys have the name %q", k.Name)
		}
		x, err := newXAES(k.Key)
		if err != nil {
			return err
		}
		list = append(list, &master{k.Name, printOf(k), x})
	}
	r.keys.Store(&list)
	return nil
}

// Current is the name of the master key that wraps.
func (r *Ring) Current() string {
	list := *r.keys.Load()
	return list[len(list)-1].name
}

// Names are the names of all, the current one last.
func (r *Ring) Names() []string {
	var names []string
	for _, m := range *r.keys.Load() {
		names = append(names, m.name)
	}
	return names
}

// Known are the names of all, each with a print of its bytes, which tells nothing of them: by
// these one process says to the others which master keys it has.
func (r *Ring) Known() []string {
	var known []string
	for _, m := range *r.keys.Load() {
		known = append(known, m.known())
	}
	return known
}

func (m *master) known() string { return m.name + " " + m.print }

// printOf is a keyed hash of nothing that is secret, under a master key.
func printOf(k Master) string {
	h := hmac.New(sha256.New, k.Key)
	_, _ = h.Write([]byte("print of a master key"))
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func (r *Ring) find(name string) (*master, error) {
	for _, m := range *r.keys.Load() {
		if m.name == name {
			return m, nil
		}
	}
	return nil, &MissingError{name}
}

// Make makes a new key for a tenant, and wraps it with the last listed of the master keys that
// everybody has; where that is none, with the current one. everybody reports whether all
// processes have one, as Known has it; nil: they do.
func (r *Ring) Make(tenant string, everybody func(known string) bool) (*Key, Wrapped, error) {
	var id [idSize]byte
	secret := make([]byte, masterLen)
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(secret)
	list := *r.keys.Load()
	m := list[len(list)-1]
	for i := len(list) - 1; i >= 0 && everybody != nil; i-- {
		if everybody(list[i].known()) {
			m = list[i]
			break
		}
	}
	w := Wrapped{ID: hex.EncodeToString(id[:]), Master: m.name}
	w.Key = wrap(m, tenant, w.ID, secret)
	k, err := keyOf(id, secret)
	return k, w, err
}

// Unwrap opens a tenant's key: [*MissingError] where its master key is not listed, and
// [ErrOpen] where it is not that tenant's, or not what was wrapped.
func (r *Ring) Unwrap(tenant string, w Wrapped) (*Key, error) {
	secret, id, err := r.secret(tenant, w)
	if err != nil {
		return nil, err
	}
	return keyOf(id, secret)
}

// Rewrap wraps a tenant's key with the current master key, and reports whether another
// one had wrapped it. That the current one has is tried with the key itself: one of the
// same name may be another by now.
func (r *Ring) Rewrap(tenant string, w Wrapped) (Wrapped, bool, error) {
	list := *r.keys.Load()
	m := list[len(list)-1]
	secret, _, err := r.secret(tenant, w)
	if err != nil || w.Master == m.name {
		return w, false, err
	}
	return Wrapped{ID: w.ID, Master: m.name, Key: wrap(m, tenant, w.ID, secret)}, true, nil
}

func (r *Ring) secret(tenant string, w Wrapped) (secret []byte, id [idSize]byte, err error) {
	m, err := r.find(w.Master)
	if err != nil {
		return nil, id, err
	}
	if n, err := hex.Decode(id[:], []byte(w.ID[:min(len(w.ID), 2*idSize)])); err != nil || n != idSize || len(w.ID) != 2*idSize {
		return nil, id, ErrOpen
	}
	secret, err = unwrap(m, tenant, w)
	return secret, id, err
}
